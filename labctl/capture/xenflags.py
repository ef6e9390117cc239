"""The flags a Xen guest and its backend tell each other with each packet, as the rings hold them.

A packet socket shows what a kernel made of them: an skb with or without a checksum to be computed.
Here they are seen themselves: `csum_blank` (the checksum field holds the pseudo-header's sum only)
and `data_validated` (nobody need check it) out of each packet's first request or response, noted
in dom0 by programs at netback's functions, see `xenflags_program`. They stand beside what was
captured at the vif, whose name they carry.

Tracing hangs on one process in dom0: when it is gone, nothing of it is left. A kernel that cannot
be traced says so in `FlagsEvidence.why_not`.

Source of the flags: xen/include/public/io/netif.h (XEN_NETTXF_*, XEN_NETRXF_*).
"""

from __future__ import annotations

import bisect
import contextlib
import re
import shlex
import signal
import struct
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

from labctl.capture import xenflags_program
from labctl.capture.session import Observation
from labctl.capture.spawn import Handle, Spawn, start_process
from labctl.capture.xenflags_program import HEAD, RECORD
from labctl.errors import LabctlError
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import last_lines

RingDirection = Literal["tx", "rx"]
"""`tx`: a request of the guest, its packet is `in` at the vif; `rx`: a response to it, `out`."""

_NAMES: dict[RingDirection, dict[int, str]] = {
    "tx": {1: "csum_blank", 2: "data_validated", 4: "more_data", 8: "extra_info"},
    "rx": {2: "csum_blank", 1: "data_validated", 4: "more_data", 8: "extra_info"},
}
_WAYS: dict[int, RingDirection] = {xenflags_program.TX: "tx", xenflags_program.RX: "rx"}
_REQUEST = struct.Struct("<IHHHH4x")  # grant, offset, flags, id, size
_RESPONSE = struct.Struct("<HHHh8x")  # id, offset, flags, status
_VIF = re.compile(r"[^\s/]{1,15}\Z")
_HEADER = re.compile(
    r"labctl xen flags 1 (?P<real>[0-9]{1,19}) (?P<mono>[0-9]{1,19}) (?P<kernel>\S{1,100})\Z"
)

_SLACK_NS = 1_000_000
"""How far two clocks of one machine, converted, may seem to be apart."""
_LONGEST_NS: dict[RingDirection, int] = {"tx": 1_000_000_000, "rx": 10_000_000_000}
"""How long a packet is under way between vif and ring: netback itself drops what waits longer."""


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


def flags_argv(vifs: Sequence[str], ssh_argv: Sequence[str]) -> tuple[str, ...]:
    """Return the words that start the observer of some vifs; `ssh_argv` ends with dom0's name.

    It writes text for `parse_flags` until its standard input ends. Raises `XenFlagsError` for what
    cannot be a vif's name, or none.
    """
    for vif in vifs:
        if not _VIF.match(vif):
            raise XenFlagsError(f"{vif!r} is no vif's name", "they read like vm1-eth0")
    if not vifs:
        raise XenFlagsError("no vif to look at the rings of")
    maps = " ".join(",".join(map(str, (*sizes, 0))) for sizes in xenflags_program.MAPS)
    programs = "\n".join(program.text() for program in xenflags_program.programs())
    command = shlex.join(["perl", "-e", flags_script(), maps, programs, *vifs])
    return (*ssh_argv, command)


def flags_script() -> str:
    """Return the observer in Perl, made short: an ssh server may bound a command's length."""
    text = Path(__file__).with_name("xenflags.pl").read_text(encoding="utf-8")
    lines = (re.sub(r"\s+# .*", "", line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#"))


def parse_flags(text: str) -> FlagsEvidence:
    """Parse what the observer wrote; what it wrote before it was cut off is kept.

    Raises `XenFlagsError` for what no observer writes.
    """
    lines = text.split("\n")
    partial = lines.pop()  # empty, or a line the observer did not get to end
    if not lines:
        return FlagsEvidence((), note=f"the observer said nothing but {partial[:80]!r}")
    if lines[0].startswith("cannot "):
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


def beside(
    observations: Iterable[Observation], seen: Iterable[FlagsSeen]
) -> tuple[tuple[Observation, FlagsSeen | None], ...]:
    """Return each observation at a vif with the flags its packet had in the ring, None without.

    A observation is at a vif if its hop has the name of one in `seen`; the others are left out. A
    packet is known by its own first bytes; of several that begin alike the nearest in time, on the
    side where the packet's way wants it, and none twice.
    """
    waiting: dict[tuple[str, RingDirection, bytes], list[FlagsSeen]] = defaultdict(list)
    lengths: dict[tuple[str, RingDirection], set[int]] = defaultdict(set)
    for one in sorted(seen, key=lambda one: one.time_ns):
        lengths[one.vif, one.direction].add(len(one.head))
        if one.head:
            waiting[one.vif, one.direction, one.head].append(one)
    vifs = {vif for vif, _ in lengths}
    found = []
    for observation in sorted(observations, key=lambda one: one.time_ns):
        if observation.hop not in vifs:
            continue
        way: RingDirection = "tx" if observation.direction == "in" else "rx"
        frame = observation.record.frame
        alike = [
            waiting[key]
            for size in lengths[observation.hop, way]
            if size <= len(frame) and (key := (observation.hop, way, frame[:size])) in waiting
        ]
        found.append((observation, _take(alike, observation.time_ns, way)))
    return tuple(found)


def _take(alike: list[list[FlagsSeen]], time_ns: int, way: RingDirection) -> FlagsSeen | None:
    """Take the best out of lists in the order of time: before `time_ns` for tx, after it for rx."""
    best: tuple[int, list[FlagsSeen], int] | None = None
    for ones in alike:
        if way == "tx":
            place = bisect.bisect_right(ones, time_ns + _SLACK_NS, key=lambda one: one.time_ns) - 1
        else:
            place = bisect.bisect_left(ones, time_ns - _SLACK_NS, key=lambda one: one.time_ns)
        if not 0 <= place < len(ones):
            continue
        apart = abs(ones[place].time_ns - time_ns)
        if apart <= _LONGEST_NS[way] and (best is None or apart < best[0]):
            best = apart, ones, place
    return best[1].pop(best[2]) if best else None


MOST_BYTES = 32 << 20
"""Of what the observer says, which is looked through as a whole: a line for each packet."""


class FlagsWatch:
    """The observer of the flags at some vifs, as a context manager that leaves nothing running.

    with FlagsWatch(["vm1-eth0"], ssh_argv, path, deadline=Deadline(60, "flags")) as watch:
        ...traffic...
        evidence = watch.stop(Deadline(60, "flags"))
    """

    def __init__(
        self,
        vifs: Sequence[str],
        ssh_argv: Sequence[str],
        path: Path,
        *,
        deadline: Deadline,
        spawn: Spawn | None = None,
    ) -> None:
        """Prepare to write to `path`, and to be ready by `deadline`; see `flags_argv`."""
        self._argv = flags_argv(vifs, ssh_argv)
        self._path, self._errors = path, path.with_suffix(".errors")
        self._deadline = deadline
        self._spawn: Spawn = spawn or start_process
        self._handle: Handle | None = None

    def __enter__(self) -> FlagsWatch:
        """Start the observer and return once it sees every packet, or has said why it cannot.

        Raises `XenFlagsError` when it ends without a word, `DeadlineError` when it is late.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._handle = self._spawn(
            self._argv, stdout=self._path, stderr=self._errors, limit=MOST_BYTES
        )
        try:
            while True:
                ended = self._handle.poll()  # before the file is read: it may just be done
                if "\n" in self._text(1 << 16):
                    return self
                if ended is not None:
                    words = self._last_words() or f"it exited with {ended}"
                    raise XenFlagsError(f"cannot observe the flags of the rings: {words}")
                if self._deadline.passed:
                    raise self._deadline.error("the observer of the flags is not ready")
                time.sleep(min(0.01, self._deadline.left))
        except BaseException:
            self.abandon()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the observer if it still runs; what was seen stays in the file."""
        self.abandon()

    def so_far(self) -> FlagsEvidence:
        """Return what was seen up to now, with a note that it is not the whole.

        Raises `XenFlagsError` for what no observer writes.
        """
        return parse_flags(self._text())

    def stop(self, deadline: Deadline) -> FlagsEvidence:
        """End the observer and return what it saw; one that died on the way tells in its note.

        Raises `XenFlagsError` when it is not running, or for what no observer writes.
        """
        handle, self._handle = self._handle, None
        if handle is None:
            raise XenFlagsError("this observer of the flags is not running")
        with contextlib.suppress(LabctlError):  # late, and killed: its text lacks the end
            handle.finish(deadline)
        evidence = parse_flags(self._text())
        words = self._last_words() if evidence.note and not evidence.counted else ""
        if not words:
            return evidence
        return FlagsEvidence(
            evidence.seen, {}, evidence.kernel, evidence.why_not, f"{evidence.note}: {words}"
        )

    def abandon(self) -> None:
        """Kill the observer if it still runs."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(LabctlError):
                handle.kill(signal.SIGKILL)
                handle.finish(Deadline(5, "ending the observer of the flags"))

    def _text(self, most: int = MOST_BYTES) -> str:
        try:
            with self._path.open("rb") as file:
                return file.read(most).decode(errors="replace")
        except OSError:
            return ""

    def _last_words(self) -> str:
        try:
            return last_lines(self._errors.read_text(errors="replace"))
        except OSError:
            return ""
