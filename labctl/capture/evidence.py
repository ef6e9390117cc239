"""What was seen at hops: each frame judged, and how far what one observer saw can be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from labctl.kinds.observers.stream import Direction, Header, Record, Stream, Trailer
from labctl.packet.checksum import Judgement


@dataclass(frozen=True, slots=True)
class Observation:
    """One frame seen at one hop, judged."""

    hop: str
    record: Record
    judgement: Judgement

    @property
    def time_ns(self) -> int:
        """Nanoseconds since the epoch on the hop's own clock; see `HopEvidence.clock_offset_ns`."""
        return self.record.time_ns

    @property
    def direction(self) -> Direction:
        """`out` if the interface's own host sends it, else `in`."""
        return self.record.direction


@dataclass(frozen=True)
class HopEvidence:
    """What one observer saw, and how far that can be trusted."""

    hop: str
    observations: tuple[Observation, ...]
    header: Header | None
    trailer: Trailer | None
    note: str = ""
    """Why the stream is cut, with the observer's last words; empty for a whole one."""
    arrived_ns: int | None = None
    """Our clock when the header was first seen."""
    asked_ns: int | None = None
    """Our clock when the observer was asked to end; None where it had ended by itself."""
    left_out: int = 0
    """Frames that the observer told of beyond what is kept of a hop."""
    full: bool = False
    """Whether the observer was ended because it had written all that it may."""

    @property
    def cut(self) -> bool:
        """Whether frames at the end may be missing."""
        return self.trailer is None

    @property
    def drops(self) -> int | None:
        """Frames the kernel could not queue for the observer; None when it could not say."""
        return self.trailer.drops if self.trailer else None

    @property
    def complete(self) -> bool:
        """Whether nothing was missed: no cut, no drop, no receive error, nothing left out."""
        trailer = self.trailer
        return trailer is not None and not (trailer.drops or trailer.errors or self.left_out)

    @property
    def limited(self) -> str:
        """Say what more there was than is kept of a hop; empty where nothing was."""
        if self.full:
            return f"only the first {len(self.observations)} frames were kept: too many bytes came"
        if self.left_out:
            return f"only the first {len(self.observations)} frames were kept, {self.left_out} not"
        return ""

    @property
    def clock_offset_ns(self) -> int | None:
        """How far the hop's clock is ahead of ours, too small by what the header took to come."""
        if self.header is None or self.arrived_ns is None:
            return None
        return self.header.clock_ns - self.arrived_ns


@dataclass(frozen=True)
class Evidence:
    """What was seen at every hop, in the order the points were given."""

    hops: tuple[HopEvidence, ...]

    def __getitem__(self, hop: str) -> HopEvidence:
        """Return one hop's evidence; raises `KeyError`."""
        for found in self.hops:
            if found.hop == hop:
                return found
        raise KeyError(hop)

    def observations(
        self, *, kind: str | None = None, dport: int | None = None
    ) -> Iterator[Observation]:
        """Yield observations hop by hop, those of a `kind` (such as `SYN`) or port where given."""
        for hop in self.hops:
            for seen in hop.observations:
                if kind is not None and seen.judgement.kind != kind:
                    continue
                if dport is not None and seen.judgement.packet.dport != dport:
                    continue
                yield seen


def judged(
    hop: str,
    stream: Stream,
    note: str = "",
    arrived_ns: int | None = None,
    asked_ns: int | None = None,
) -> HopEvidence:
    """Judge a stream's records with its interface's MTU."""
    mtu = stream.header.mtu if stream.header else None
    return HopEvidence(
        hop,
        tuple(Observation(hop, record, record.classify(mtu)) for record in stream.records),
        stream.header,
        stream.trailer,
        note,
        arrived_ns,
        asked_ns,
        stream.left_out,
    )
