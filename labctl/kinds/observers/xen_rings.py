"""The flags a Xen guest and its backend tell each other with each packet, as the rings hold them.

A packet socket shows what a kernel made of them: an skb with or without a checksum to be computed.
Here they are seen themselves: `csum_blank` (the checksum field holds the pseudo-header's sum only)
and `data_validated` (nobody need check it) out of each packet's first request or response, noted
in dom0 by programs at netback's functions, see `xen_rings_program`. They carry the name of the vif,
so that they can be put beside what was captured there (`labctl.capture.xenflags`).

Tracing hangs on one process in dom0: when it is gone, nothing of it is left. A kernel that cannot
be traced says so in `FlagsEvidence.why_not`.

Source of the flags: xen/include/public/io/netif.h (XEN_NETTXF_*, XEN_NETRXF_*).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from labctl.errors import LabctlError
from labctl.kinds.base import Context, Look, ObserverKind
from labctl.kinds.observers import xen_rings_program
from labctl.kinds.observers.packet_socket import shortened
from labctl.kinds.observers.xen_rings_program import HEAD, RECORD

RingDirection = Literal["tx", "rx"]
"""`tx`: a request of the guest, its packet is `in` at the vif; `rx`: a response to it, `out`."""

_NAMES: dict[RingDirection, dict[int, str]] = {
    "tx": {1: "csum_blank", 2: "data_validated", 4: "more_data", 8: "extra_info"},
    "rx": {2: "csum_blank", 1: "data_validated", 4: "more_data", 8: "extra_info"},
}
_WAYS: dict[int, RingDirection] = {xen_rings_program.TX: "tx", xen_rings_program.RX: "rx"}
_REQUEST = struct.Struct("<IHHHH4x")  # grant, offset, flags, id, size
_RESPONSE = struct.Struct("<HHHh8x")  # id, offset, flags, status
_VIF = re.compile(r"[^\s/]{1,15}\Z")
_CANNOT = "cannot "
_NO_PERL = f"{_CANNOT}look into the rings: there is no perl"
_HEADER = re.compile(
    r"labctl xen flags 1 (?P<real>[0-9]{1,19}) (?P<mono>[0-9]{1,19}) (?P<kernel>\S{1,100})\Z"
)


class XenFlagsError(LabctlError):
    """The flags' observer did not start, or what it left cannot be read."""


@dataclass(frozen=True, slots=True)
class FlagsSeen:
    """The flags of one packet in the ring between a guest and its vif."""

    time_ns: int
    """Nanoseconds since the epoch on dom0's clock: for `tx` just before the packet is seen at the
    vif, for `rx` once it was handed to the guest."""
    vif: str
    direction: RingDirection
    flags: int
    """As in the ring. The two directions number them differently: use `names`."""
    id: int
    """Of the request, or of the response."""
    size: int
    """Bytes of the packet in its first slot: most often all of it."""
    head: bytes
    """The packet's first bytes, from its MAC addresses on; empty if they could not be read."""

    @property
    def names(self) -> tuple[str, ...]:
        """The flags that are set, by the names of Xen's header without their prefix."""
        return tuple(name for bit, name in _NAMES[self.direction].items() if self.flags & bit)

    @property
    def csum_blank(self) -> bool:
        """Whether the checksum field is told to hold the pseudo-header's sum only."""
        return "csum_blank" in self.names

    @property
    def data_validated(self) -> bool:
        """Whether the data is told to be good, so that no receiver need check it."""
        return "data_validated" in self.names

    @property
    def extra_info(self) -> bool:
        """Whether another entry follows that tells more, such as a GSO size."""
        return "extra_info" in self.names


@dataclass(frozen=True)
class FlagsEvidence:
    """What the observer of the flags saw, and how far that can be trusted."""

    seen: tuple[FlagsSeen, ...]
    """In the order of time."""
    counted: Mapping[str, int] = field(default_factory=dict)
    """By vif, the packets that came to its rings; empty when the observer did not end by itself."""
    kernel: str = ""
    """Release of dom0's kernel."""
    why_not: str = ""
    """Why this kernel's rings cannot be looked into; empty when they can."""
    note: str = ""
    """Why packets may be missing; empty when none is."""

    @property
    def complete(self) -> bool:
        """Whether the flags of every packet were seen."""
        return not self.why_not and not self.note


def parse_flags(text: str) -> FlagsEvidence:
    """Parse what the observer wrote; what it wrote before it was cut off is kept.

    Raises `XenFlagsError` for what no observer writes.
    """
    lines = text.split("\n")
    partial = lines.pop()  # empty, or a line the observer did not get to end
    if not lines:
        return FlagsEvidence((), note=f"the observer said nothing but {partial[:80]!r}")
    if lines[0].startswith(_CANNOT):
        return FlagsEvidence((), why_not=lines[0])
    header = _HEADER.match(lines[0])
    if not header:
        raise XenFlagsError(f"not what the observer of the flags writes: {lines[0][:80]!r}")
    offset = int(header["real"]) - int(header["mono"])
    records: list[_Record] = []
    counted: dict[str, int] = {}
    ended = False
    for line in lines[1:]:
        words = line.split()
        try:
            if words[0] == "seen":
                records.append(_record(bytes.fromhex(words[1]), offset))
            elif words[0] == "count":
                counted[words[1]] = int(words[2])
            else:
                ended = words[0] == "end"
        except (LookupError, ValueError, struct.error):
            wrong = f"not what the observer of the flags writes: {line[:80]!r}"
            raise XenFlagsError(wrong) from None
    records.sort(key=lambda record: record.seen.time_ns)
    seen = tuple(record.seen for record in records)
    missed = max(_gaps(records), sum(counted.values()) - len(seen))
    note = "" if ended else "the observer of the flags was cut off"
    if ended and missed:
        note = f"the flags of {missed} packets were missed"
    return FlagsEvidence(seen, counted, header["kernel"], note=note)


@dataclass(frozen=True, slots=True)
class _Record:
    seen: FlagsSeen
    queue: int
    number: int
    """How many packets the queue had counted in this direction."""


def _gaps(records: Iterable[_Record]) -> int:
    """Count the packets left out, by what the queues counted; records in the order of time."""
    last: dict[tuple[str, RingDirection, int], int] = {}
    missed = 0
    for record in records:
        queue = record.seen.vif, record.seen.direction, record.queue
        # A count that went back is a new vif's. One that stands still: a packet netback threw away.
        missed += max(0, record.number - last.get(queue, record.number) - 1)
        last[queue] = record.number
    return missed


def _record(record: bytes, offset: int) -> _Record:
    mono, count, way, error, name, entry, length, paged, queue, head = RECORD.unpack(record)
    direction = _WAYS[way]
    if direction == "tx":
        _, _, flags, number, size = _REQUEST.unpack(entry)
    else:
        number, _, flags, size = _RESPONSE.unpack(entry)
    one = FlagsSeen(
        time_ns=mono + offset,
        vif=name.split(b"\0")[0].decode(),
        direction=direction,
        flags=flags,
        id=number,
        size=size,
        head=b"" if error else head[: min(HEAD, length - paged)],
    )
    return _Record(one, queue, count)


def flags_script() -> str:
    """Return the observer in Perl, made short: an ssh server may bound a command's length."""
    return shortened(Path(__file__).with_name("xen_rings.pl"))


class FlagsReader:
    """Reads what the observer writes."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._said = bytearray()

    def feed(self, data: bytes) -> None:
        """Take in what came next."""
        self._said += data

    @property
    def ready(self) -> bool:
        """Whether its first line is there, and is none that says why not."""
        return b"\n" in self._said and not self.why_not

    @property
    def why_not(self) -> str:
        """Why the rings cannot be looked into."""
        line, ended, _ = self._said[:1000].partition(b"\n")
        said = line.decode(errors="replace")
        return said if ended and said.startswith(_CANNOT) else ""

    def evidence(self) -> FlagsEvidence:
        """Return what was seen; raises `XenFlagsError` for what no observer writes."""
        return parse_flags(self._said.decode(errors="replace"))


class XenRings(ObserverKind[FlagsEvidence]):
    """Programs at netback's functions, which note the flags of each packet in its ring."""

    name = "xen-rings"
    summary = "the checksum flags in the rings between Xen guests and their vifs (BPF, in dom0)"
    looks_into = (Context.DOM0,)

    def can_run(self, look: Look) -> str:
        """Say why it cannot look there: without a vif, or with what cannot be a vif's name."""
        if why := super().can_run(look):
            return why
        for vif in look.links:
            if not _VIF.match(vif):
                return f"{vif!r} is no vif's name, they read like vm1-eth0"
        return "" if look.links else "no vif to look at the rings of"

    def start(self, look: Look) -> tuple[str, ...]:
        """Return the words that start the observer of some vifs.

        It writes text for `parse_flags` until its standard input ends.
        """
        maps = " ".join(",".join(map(str, (*sizes, 0))) for sizes in xen_rings_program.MAPS)
        programs = "\n".join(program.text() for program in xen_rings_program.programs())
        begin = f'command -v perl >/dev/null || {{ echo "{_NO_PERL}"; exit; }}; exec perl -e "$@"'
        return ("sh", "-c", begin, "sh", flags_script(), maps, programs, *look.links)

    def reader(self) -> FlagsReader:
        """Return a reader of what it writes."""
        return FlagsReader()
