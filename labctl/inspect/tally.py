"""Adding up a file batch by batch: counts by kind, interface and flow, and who offended first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labctl.inspect.batch import Batch, Ints
from labctl.inspect.flows import Table, read_key
from labctl.inspect.kinds import KINDS, STATE_OF, Kind
from labctl.inspect.scalar import Seen, examine_all
from labctl.inspect.vector import Judged
from labctl.packet.checksum import Checksum

OFFENCES: dict[Checksum, frozenset[Kind]] = {
    Checksum.BAD: frozenset({Kind.BAD}),
    Checksum.PARTIAL: frozenset({Kind.PARTIAL, Kind.PARTIAL_DATA}),
}
"""What may be wrong with a frame; those that GRO merged or somebody will finish are not."""


@dataclass(frozen=True)
class Offender:
    """One frame whose checksum may be wrong, with what would be right."""

    number: int
    """Counted from 1 in the file, as Wireshark does."""
    time_ns: int | None
    """Nanoseconds since the epoch."""
    interface: str
    """Its name where the file tells; labctl's files name the hop."""
    flow: str
    what: str
    """Such as `SYN` or `UDP`."""
    state: Checksum
    digits: int
    """Hexadecimal digits of the sums: 4, or 8 for SCTP."""
    field: int | None
    valid: int | None
    """The value that would be `valid`."""
    partial: int | None
    """The value that would be `partial`."""
    outer: Checksum | None
    """The state of the packet that it was carried in; None for the outermost."""


class Tally:
    """Everything counted so far; bounded, however long the file is."""

    def __init__(self, mtu: int, show: int) -> None:
        self.frames = 0
        self.kinds: Ints = np.zeros(KINDS, np.int64)
        self.pairs: Ints = np.zeros((KINDS, KINDS), np.int64)
        """Packets that carried a frame: how many of each kind (row), and what they carried."""
        self.interfaces: dict[int, Ints] = {}
        self.marking: set[int] = set()
        """The interfaces of which the file says what was known beside some frame."""
        self.flows = Table()
        self.bad_headers = 0
        self.offenders: dict[Checksum, list[Offender]] = {state: [] for state in OFFENCES}
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self._mtu = mtu
        self._show = show

    def add(self, batch: Batch, judged: Judged) -> None:
        """Add a batch; batches come in the order of the file."""
        if self.first_ns is None:
            self.first_ns = batch.time_ns(0)
        self.last_ns = batch.time_ns(len(batch) - 1) or self.last_ns
        self.frames += len(batch)
        self.pairs += judged.pairs
        self.bad_headers += judged.bad_headers
        if batch.metadata:
            told = [place for place, known in batch.metadata.items() if known.flags]
            self.marking.update(np.unique(batch.interface[told]).tolist())
        for number, counts in judged.interfaces.items():
            self.kinds += counts
            self.interfaces[number] = self.interfaces.get(number, 0) + counts
        for some in judged.groups:
            self.flows.add(some)
        for state, kinds in OFFENCES.items():
            missing = self._show - len(self.offenders[state])
            if missing > 0:
                for place in _places(judged, sorted(kinds), missing):
                    self._offender(batch, place, state)

    def _offender(self, batch: Batch, place: int, state: Checksum) -> None:
        """Judge a frame once more, for the values to show."""
        interface = batch.interfaces[int(batch.interface[place])]
        layers = examine_all(
            interface.link,
            batch.frame(place),
            int(batch.original[place]),
            interface.mtu or self._mtu,
            batch.metadata.get(place) if batch.metadata else None,
        )
        outer: Checksum | None = None
        for seen in layers:
            if seen.kind in OFFENCES[state] and len(self.offenders[state]) < self._show:
                self.offenders[state].append(
                    _shown(seen, batch.first + place, batch.time_ns(place), interface.name, outer)
                )
            outer = STATE_OF[seen.kind]


def _places(judged: Judged, kinds: list[Kind], most: int) -> list[int]:
    """Return the first frames that are, or carry, one of the kinds."""
    found = [np.flatnonzero(np.isin(judged.kinds, kinds))[:most]]
    found += [places[np.isin(inner, kinds)] for places, inner in judged.inner]
    places: list[int] = np.unique(np.concatenate(found))[:most].tolist()
    return places


def _shown(
    seen: Seen, number: int, time_ns: int | None, interface: str, outer: Checksum | None
) -> Offender:
    judgement = seen.judgement
    assert judgement is not None  # an unknown link type is no offence
    return Offender(
        number,
        time_ns,
        interface,
        str(read_key(seen.key)) if seen.key else judgement.packet.family,
        judgement.kind,
        judgement.state,
        8 if judgement.packet.protocol == "sctp" else 4,
        judgement.field,
        judgement.expected,
        judgement.pseudo_sum,
        outer,
    )
