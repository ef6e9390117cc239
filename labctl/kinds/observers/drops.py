"""The kernel's own account of the packets it drops, from a trace instance of a watch's own.

The shell text is for any POSIX shell (busybox too), so that a guest needs nothing installed.
Sources: kernel include/trace/events/skb.h (kfree_skb), include/trace/events/net.h
(netif_receive_skb), Documentation/trace/ftrace.rst (instances).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from labctl.errors import LabctlError
from labctl.kinds.base import Context, Look, ObserverKind

_INSTANCES = "/sys/kernel/tracing/instances"
_OWN = "labctl-"
"""What the names of our trace instances begin with; the watch's token follows."""
_NAME = re.compile(r"[A-Z][A-Z0-9_]*\Z")
_LINE = re.compile(
    r"\s(?P<time>\d{1,12}\.\d{1,9}): kfree_skb: skbaddr=(?P<skb>\S{1,40}) .{0,80}?"
    r"\bprotocol=(?P<protocol>\d{1,9}) location=(?P<location>\S{1,200})"
    r"(?: reason: (?P<reason>\w{1,80}))?"
)
_ARRIVAL = re.compile(
    r"\s(?P<time>\d{1,12}\.\d{1,9}): netif_receive_skb: "
    r"dev=(?P<device>\S{1,80}) skbaddr=(?P<skb>\S{1,40}) len=(?P<length>\d{1,9})"
)


_UNWRAPPING_SECONDS = 0.05
"""How long a kernel may take from a packet to what is inside it."""

_FILL = re.compile(r"entries-in-buffer/entries-written: (\d+)/(\d+)")
_LONGEST_LINE = 1000
"""Characters of a line of a trace that are looked at: a guest may write what it likes."""


_READY = "labctl drops 1"
_CANNOT = "cannot "


class DropsError(LabctlError):
    """What was asked for is no drop reason."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """That the kernel took in a packet."""

    time_s: float
    """Seconds on the guest's CLOCK_MONOTONIC."""
    device: str
    length: int
    """Bytes without the Ethernet header."""


@dataclass(frozen=True, slots=True)
class Drop:
    """One packet the kernel dropped."""

    time_s: float
    """Seconds on the guest's CLOCK_MONOTONIC."""
    protocol: int
    """The ethertype, 2048 for IPv4."""
    location: str
    """Where in the kernel, such as `tcp_v4_rcv+0x1f8/0xea0`."""
    reason: str | None
    """The drop reason, such as `TCP_CSUM`; None before Linux 5.17, which has none."""
    arrivals: tuple[Arrival, ...] | None = None
    """How the packet came in: more than one where it was unwrapped on the way, none where it was
    not seen to come (it was sent), None where that was not recorded."""


def _instance(token: str) -> str:
    return f"{_INSTANCES}/{_OWN}{token}"


def watch_command(token: str, reasons: Iterable[str] = ()) -> str:
    """Return shell text that starts recording drops in a trace instance of this watch's own.

    `token` is a word that no other watch has. Only drops of the named `reasons` are recorded where
    the kernel knows them all, else every drop. Where no reason is named, arrivals are recorded too,
    which tell the packet a drop is of. The text prints what instances there are, for `watching`, or
    why the kernel cannot tell; what it had made by then `unwatch_command` removes. Raises
    `DropsError` for what cannot be a reason's name.
    """
    instance = _instance(token)
    event = f"{instance}/events/skb/kfree_skb"
    arrivals = f"{instance}/events/net/netif_receive_skb"
    names = tuple(reasons)
    for name in names:
        if not _NAME.match(name):
            raise DropsError(f"{name!r} is no drop reason", "they read like TCP_CSUM")
    lines = [
        "set -e",
        f'cannot() {{ echo "{_CANNOT}$1"; exit; }}',
        # Reading the directory lets the kernel mount tracefs there by itself where it can.
        "[ -d /sys/kernel/tracing/instances ] || mount -t tracefs tracefs /sys/kernel/tracing ||",
        '    cannot "look into the kernel: it has no tracefs"',
        f"mkdir {instance}",  # one that is there already is somebody else's
        f'[ -e {event} ] || cannot "see drops: the kernel has no tracepoint skb:kfree_skb"',
        f"echo {256 if names else 512} > {instance}/buffer_size_kb",
        # The default is a CPU's own clock, which nothing else can be compared with.
        f"echo mono > {instance}/trace_clock",
        f"echo 0 > {event}/filter",
        "filter=",
    ]
    for name in names:
        # A filter wants the number, which is the kernel release's own: its format file tells.
        number = f"""sed -n 's/.*{{ *\\([0-9a-fx]*\\), *"{name}" *}}.*/\\1/p' {event}/format"""
        lines += [
            f"number=$({number})",
            '[ -n "$number" ] || filter=none',
            '[ "$filter" = none ] || filter="${filter:+$filter || }reason == $number"',
        ]
    if names:
        lines.append(f'[ "$filter" = none ] || echo "$filter" > {event}/filter')
    else:
        lines.append(f"[ ! -e {arrivals}/enable ] || echo 1 > {arrivals}/enable")
    lines += [f"echo 1 > {event}/enable", f"echo 1 > {instance}/tracing_on"]
    lines += [f"echo {_READY}", f"ls {_INSTANCES}"]
    return "\n".join(lines) + "\n"


def read_command(token: str) -> str:
    """Return shell text that prints the drops a watch has recorded, for `parse_drops`."""
    return f"cat {_instance(token)}/trace"


def unwatch_command(token: str) -> str:
    """Return shell text that ends a watch and removes its instance, if there is one."""
    instance = _instance(token)
    return f"if [ -d {instance} ]; then echo 0 > {instance}/events/enable; rmdir {instance}; fi"


def watching(text: str) -> tuple[str, ...]:
    """Return the tokens of the watches that `watch_command` printed."""
    return tuple(line.removeprefix(_OWN) for line in text.split() if line.startswith(_OWN))


def parse_drops(text: str) -> tuple[Drop, ...]:
    """Parse the lines of `skb:kfree_skb` in a trace, told apart by those of arrivals if there are.

    A buffer is known by its address, which the kernel prints the same in both (and uses again for
    the next packet): what arrived in it last is what was dropped. Other lines are passed over.
    """
    drops = []
    came: dict[str, list[Arrival]] = {}
    recorded = False
    for line in (whole[:_LONGEST_LINE] for whole in text.splitlines()):
        arrival, dropped = _ARRIVAL.search(line), _LINE.search(line)
        if arrival:
            recorded = True
            one = Arrival(float(arrival["time"]), arrival["device"], int(arrival["length"]))
            before = came.get(arrival["skb"], [])
            came[arrival["skb"]] = [*before, one] if before and _inner(before[-1], one) else [one]
        elif dropped:
            arrivals = came.pop(dropped["skb"], [])
            drops.append(
                Drop(
                    float(dropped["time"]),
                    int(dropped["protocol"]),
                    dropped["location"],
                    dropped["reason"],
                    tuple(arrivals),
                )
            )
    fill = _FILL.search(text)
    overrun = fill is not None and fill[1] != fill[2]  # the oldest lines are lost
    return tuple(
        replace(one, arrivals=None) if not recorded or (overrun and not one.arrivals) else one
        for one in drops
    )


def _inner(outer: Arrival, one: Arrival) -> bool:
    """Tell whether a packet is what was inside the one that came before in the same buffer."""
    near = one.time_s - outer.time_s < _UNWRAPPING_SECONDS
    return near and one.device != outer.device and one.length < outer.length


class DropsReader:
    """Reads what a watch says as it begins, and what it has recorded."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._said = bytearray()

    def feed(self, data: bytes) -> None:
        """Take in what came next."""
        self._said += data

    @property
    def ready(self) -> bool:
        """Whether the watch has begun."""
        return _READY in self._text.splitlines()

    @property
    def why_not(self) -> str:
        """Why the kernel cannot tell."""
        said = self._text
        return said.splitlines()[0] if said.startswith(_CANNOT) else ""

    def evidence(self) -> tuple[Drop, ...]:
        """Return the drops so far."""
        return parse_drops(self._text)

    @property
    def _text(self) -> str:
        return self._said.decode(errors="replace")


class Drops(ObserverKind[tuple[Drop, ...]]):
    """A trace instance of the kernel's, in which it writes down the packets that it drops."""

    name = "drops"
    summary = "what a guest's kernel says of packets it drops, with the reason (skb:kfree_skb)"
    looks_into = (Context.GUEST, Context.DOM0)

    def can_run(self, look: Look) -> str:
        """Say why it cannot look there: a trace of the lab's own kernel is one of the whole host's.

        The tracepoint tells no network namespace.
        """
        if look.context is Context.LAB:
            return f"{look.context.value} is the host's: it would report drops of the whole host"
        return super().can_run(look)

    def start(self, look: Look) -> tuple[str, ...]:
        """Return the words that begin a watch; its `only` are drop reasons, such as TCP_CSUM."""
        return ("sh", "-c", watch_command(look.hop, look.only))

    def ask(self, look: Look) -> tuple[str, ...]:
        """Return the words that print what was recorded."""
        return ("sh", "-c", read_command(look.hop))

    def stop(self, look: Look) -> tuple[str, ...]:
        """Return the words that end the watch."""
        return ("sh", "-c", unwatch_command(look.hop))

    def reader(self) -> DropsReader:
        """Return a reader of all that."""
        return DropsReader()
