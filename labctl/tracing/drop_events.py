"""Which packet it was that a guest's kernel said it dropped, and whether anything was lost by it.

A drop names no packet. Where the kernel also tells which buffer arrived on which device, the drop
is of that arrival, and one that came by another device (the network that labctl manages the guest
by) is nobody's here. Elsewhere a packet seen shortly before must fit the reason.

Not every drop is a loss. TCP repeats what is answered late, and its receiver drops the copy; a
packet that is late for a connection that has ended has nobody to go to. Such a packet trace ends
well, but only where what was seen at the receiver proves it: the reason alone does not. Sources:
kernel include/net/dropreason-core.h, net/ipv4/tcp_input.c (tcp_data_queue, tcp_validate_incoming,
tcp_rcv_state_process), net/ipv4/tcp_ipv4.c (tcp_v4_rcv).
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from labctl.capture.session import Observation
from labctl.packet.af_packet import PACKET_OTHERHOST
from labctl.packet.frame import (
    ETH_HLEN,
    LONGEST_FRAME,
    TCP,
    TCP_ACK,
    TCP_FIN,
    TCP_RST,
    TCP_SYN,
    Packet,
)
from labctl.packet.keys import Traits, after, traits
from labctl.topology.points import ObservationPoint
from labctl.tracing.packet_trace import HopEvent, Outcome, PacketTrace, Step, unusable

CHECKSUM_REASONS = frozenset({"TCP_CSUM", "UDP_CSUM", "ICMP_CSUM", "SKB_CSUM", "SKB_BAD_GSO"})
SILENT_REASONS = frozenset(
    {"", "NOT_SPECIFIED", "SKB_CONSUMED", "PACKET_SOCK_ERROR", "QUEUE_PURGE", "SOCKET_CLOSE"}
)
"""Reasons that accuse nobody: none was given, a copy for an observer was freed, or a program ended
without reading what its socket had taken in."""
REPEATED_REASONS = frozenset(
    {
        "TCP_OLD_DATA",
        "TCP_OLD_SEQUENCE",
        "TCP_OFOMERGE",
        "TCP_OFO_DROP",
        "TCP_OLD_ACK",
        "TCP_TOO_OLD_ACK",
        "TCP_RFC7323_PAWS_ACK",
    }
)
"""Reasons by which the receiver says that it has had this already."""
ODD_REASONS = frozenset({"TCP_INVALID_SEQUENCE", "TCP_INVALID_SYN", "TCP_RFC7323_PAWS"})
"""Reasons that a copy gets too, but not only a copy: before Linux 6.4 TCP_INVALID_SEQUENCE also
stood for what is TCP_OLD_SEQUENCE now, and a second SYN-ACK is an unexpected SYN."""
ENDED_REASONS = frozenset(
    {
        "NO_SOCKET",
        "TCP_CLOSE",
        "TCP_RESET",
        "TCP_ABORT_ON_DATA",
        "TCP_INVALID_SEQUENCE",
        "TCP_INVALID_ACK_SEQUENCE",
        "TCP_RFC7323_PAWS",
    }
)
"""Reasons that a packet gets whose connection has ended."""
DROP_WINDOW_NS = 500_000_000
"""How long after it was seen a guest may take to drop a packet, on the guest's own clock."""
CHECKSUM_WINDOW_NS = 10_000_000_000
"""The same for a checksum's sake: a datagram is summed when its receiver gets to reading it
(kernel: udp_recvmsg), which in a busy emulated guest takes its time."""
MOST_DROPS = 500
"""That are looked into: each is compared with what was seen of its connection."""
_NEAREST = 200
"""Packets that are compared with a drop, the nearest in time."""
_JITTER_NS = 20_000_000
"""How far apart two readings of a guest's two clocks may lie, in an emulated guest."""
_ANY = -1
"""Whatever the length."""
_FLAGS = {"TCP_RESET": TCP_RST, "TCP_INVALID_SYN": TCP_SYN}
"""Reasons that only packets with a flag can get."""


@dataclass(frozen=True, slots=True)
class GuestArrival:
    """That a guest's kernel took in a packet which it later dropped."""

    time_ns: int
    """Nanoseconds since the epoch on that guest's clock."""
    device: str
    length: int
    """Bytes without the Ethernet header."""


@dataclass(frozen=True, slots=True)
class GuestDrop:
    """A packet that a guest's kernel said it dropped."""

    owner: str
    time_ns: int
    """Nanoseconds since the epoch on that guest's clock."""
    protocol: int
    """The ethertype."""
    reason: str
    location: str = ""
    arrivals: tuple[GuestArrival, ...] | None = None
    """How it came in, by an outer device first where it was unwrapped; empty where it was sent
    and not received, None where the kernel does not tell."""


def with_drops(
    packet_traces: Sequence[PacketTrace],
    drops: Iterable[GuestDrop],
    point: ObservationPoint,
    heard: Sequence[Observation],
) -> list[PacketTrace]:
    """Give the drops that a guest told of to the packet traces that ended there.

    `point` is the last hop of the path, and `heard` all that was seen there, both ways.
    """
    result = list(packet_traces)
    if not point.in_guest:
        return result
    ended = _Ended(packet_traces, point)
    talk = _Talk(heard)
    told = [d for d in drops if d.owner == point.element and d.reason not in SILENT_REASONS]
    told.sort(key=lambda drop: (drop.arrivals is None, drop.time_ns))
    found: dict[int, GuestDrop] = {}
    for drop in told[:MOST_DROPS]:
        key = ended.named(drop) if drop.arrivals is not None else None
        if drop.arrivals is None:
            key = ended.likely(drop, talk)
        if key is not None:
            found[key] = drop
            ended.take(key)
    lost = {
        key
        for key, drop in found.items()
        if not _forgiven(drop, ended.observations[key], talk, found.keys())
    }
    for key, drop in found.items():
        why = _forgiven(drop, ended.observations[key], talk, lost - {key})
        for number in ended.packet_traces[key]:
            result[number] = _dropped(result[number], drop, why)
    return result


class _Talk:
    """All that was seen at a hop, put together by connection, both ways, in its order."""

    def __init__(self, heard: Sequence[Observation]) -> None:
        self._of: dict[frozenset[tuple[str | None, int | None]], list[Observation]] = {}
        for seen in heard:
            self._of.setdefault(frozenset(_ends(seen.judgement.packet)), []).append(seen)

    def of(self, seen: Observation) -> Sequence[Observation]:
        """Return what was seen of the connection that a packet belongs to."""
        return self._of.get(frozenset(_ends(seen.judgement.packet)), ())


class _Ended:
    """The observations at the last hop at which packet traces ended; merged ones share theirs."""

    def __init__(self, packet_traces: Sequence[PacketTrace], point: ObservationPoint) -> None:
        self.point = point
        self.observations: dict[int, Observation] = {}
        self.packet_traces: dict[int, list[int]] = {}
        self.steps: dict[int, Step] = {}
        self.protocols: dict[int, str] = {}
        for number, packet_trace in enumerate(packet_traces):
            last = packet_trace.last
            if last is None or last.hop != point.name:
                continue
            for seen in last.observations:
                self.observations[id(seen)] = seen
                self.packet_traces.setdefault(id(seen), []).append(number)
                self.steps[id(seen)] = last
                self.protocols[id(seen)] = packet_trace.protocol
        # In the order of time, all of them and those of each length; what was found is taken out.
        self._free: dict[int, list[tuple[int, int]]] = {}
        for key, seen in self.observations.items():
            for length in (_ANY, seen.record.original_length):
                bisect.insort(self._free.setdefault(length, []), (seen.time_ns, key))

    def take(self, key: int) -> None:
        """Leave a observation out from now on: what it was is known."""
        seen = self.observations[key]
        for length in (_ANY, seen.record.original_length):
            self._free[length].remove((seen.time_ns, key))

    def _near(self, length: int, when: int, before: int, after: int) -> list[int]:
        """Return the free observations of a length around a time, the nearest first."""
        free = self._free.get(length, [])
        low = bisect.bisect_left(free, (when - before, 0))
        high = bisect.bisect_left(free, (when + after + 1, 0))
        middle = bisect.bisect_left(free, (when, 0))
        near = free[max(low, middle - _NEAREST) : min(high, middle + _NEAREST)]
        return [key for _, key in sorted(near, key=lambda pair: abs(pair[0] - when))]

    def named(self, drop: GuestDrop) -> int | None:
        """Return the observation of the packet whose arrival the kernel told of."""
        for came in drop.arrivals or ():
            if came.device != self.point.link:
                continue
            length = came.length + ETH_HLEN
            for key in self._near(length, came.time_ns, DROP_WINDOW_NS, DROP_WINDOW_NS):
                if self._may_be(drop, key):
                    return key
        return None

    def likely(self, drop: GuestDrop, talk: _Talk) -> int | None:
        """Return the observation that a drop without a named packet fits, shortly before it."""
        window = CHECKSUM_WINDOW_NS if drop.reason in CHECKSUM_REASONS else DROP_WINDOW_NS
        for key in self._near(_ANY, drop.time_ns, window - _JITTER_NS, _JITTER_NS):
            if not self._may_be(drop, key):
                continue
            if (drop.reason in CHECKSUM_REASONS) != unusable(self.steps[key]):
                continue
            # Of any connection of the guest, such as its management's: only a copy can be meant.
            copies = drop.reason in REPEATED_REASONS | ODD_REASONS
            if not copies or _forgiven(drop, self.observations[key], talk, ()):
                return key
        return None

    def _may_be(self, drop: GuestDrop, key: int) -> bool:
        """Tell whether such a packet can be dropped for that reason at all."""
        seen = self.observations[key]
        packet = seen.judgement.packet
        protocols = {self.protocols[key], packet.protocol or ""}
        if drop.arrivals is None and drop.protocol != packet.ethertype:
            return False
        if (drop.reason == "OTHERHOST") != (seen.record.pkttype == PACKET_OTHERHOST):
            return False
        if drop.reason == "NO_SOCKET" and any(p.startswith("icmp") for p in protocols):
            # An answer has no socket once the raw ones have had their copies (kernel: ping_rcv).
            return False
        flag = _FLAGS.get(drop.reason)
        if flag is not None and not (packet.tcp_flags or 0) & flag:
            return False
        family = drop.reason.partition("_")[0].lower()
        return family not in ("tcp", "udp") or family in protocols


def _dropped(packet_trace: PacketTrace, drop: GuestDrop, why: str) -> PacketTrace:
    last = packet_trace.steps[-1]
    if why and packet_trace.outcome is Outcome.ARRIVED:
        remark = f"dropped as {drop.reason}: {why}"
        last = replace(last, notes=(*last.notes, remark))
        return replace(packet_trace, steps=(*packet_trace.steps[:-1], last), remark=remark)
    last = replace(last, reason=drop.reason)
    if last.happened is HopEvent.FORWARDED:
        last = replace(last, happened=HopEvent.DROPPED)
    steps = (*packet_trace.steps[:-1], last)
    return replace(
        packet_trace, steps=steps, outcome=Outcome.DROPPED, reason=drop.reason, remark=""
    )


def _forgiven(drop: GuestDrop, seen: Observation, talk: _Talk, lost: Iterable[int]) -> str:
    """Say why nothing was lost by a drop; empty where what was seen does not prove that.

    `lost` are the identities of observations that cannot be proof: they were dropped themselves.
    """
    packet, heard = seen.judgement.packet, talk.of(seen)
    flags = packet.tcp_flags
    if flags is None or packet.seq is None:
        return ""
    if drop.reason == "TCP_RESET" and flags & TCP_RST:
        return "a reset is dropped once it is obeyed"  # kernel: tcp_reset, then discard
    if drop.reason in REPEATED_REASONS | ODD_REASONS:
        why = _copy(drop.reason in REPEATED_REASONS, seen, heard, set(lost))
        if why:
            return why
    if drop.reason in ENDED_REASONS and _over(seen, heard):
        # A SYN may begin another connection, so it is lost; a server's answer that is repeated
        # after it was acknowledged begins nothing.
        answer = flags & TCP_ACK and _copy(False, seen, heard, set(lost))
        if not flags & TCP_SYN or answer:
            return "its connection had ended there"
    return ""


def _copy(certain: bool, seen: Observation, heard: Sequence[Observation], lost: set[int]) -> str:
    """Tell whether a segment repeats what its receiver has.

    Either the same bytes were seen to come in another packet that was not dropped, or the receiver
    acknowledged them: before this one came, or at any time where the reason says (`certain`) that
    it had them then.
    """
    mine, packet = _traits(seen), seen.judgement.packet
    if mine is None or packet.seq is None:
        return ""
    before = True
    covered: list[tuple[int, int]] = []
    begin, end = 0, _span(packet, mine)
    for other in heard:
        if other is seen:
            before = False
            continue
        facts = other.judgement.packet
        if facts.tcp_flags is None or facts.seq is None or facts.ack is None:
            continue
        if _ends(facts) == _ends(packet)[::-1]:
            acknowledged = after(packet.seq, facts.ack) if facts.tcp_flags & TCP_ACK else -1
            if end and acknowledged >= end and (before or certain):
                return "its receiver had acknowledged what it holds"
            continue
        if _ends(facts) != _ends(packet) or id(other) in lost or not _accepted(other):
            continue
        if not end and before and after(packet.ack or 0, facts.ack) >= 0:
            return "what it acknowledges was acknowledged before"
        start = after(packet.seq, facts.seq)
        if not (before or certain) or not -LONGEST_FRAME < start < end:
            continue
        theirs = _traits(other)
        if theirs is None or _differs(mine, theirs):
            continue
        covered.append((start, start + _span(facts, theirs)))
    for low, high in sorted(covered):
        if low <= begin < high:
            begin = high
    return "a copy of what had arrived" if end and begin >= end else ""


def _over(seen: Observation, heard: Sequence[Observation]) -> bool:
    """Tell whether the receiver had closed or reset the connection, or was told of its reset."""
    ends = _ends(seen.judgement.packet)
    over = False
    for other in heard:
        if other is seen:
            return over
        packet = other.judgement.packet
        flags = packet.tcp_flags or 0
        if packet.tcp_flags is None or _ends(packet) not in (ends, ends[::-1]):
            continue
        if flags & TCP_SYN:
            over = False
        elif flags & TCP_RST:
            over = over or _ends(packet) == ends[::-1] or _accepted(other)
        elif flags & TCP_FIN:
            over = over or _ends(packet) == ends[::-1]
    return False


def _ends(packet: Packet) -> tuple[tuple[str | None, int | None], tuple[str | None, int | None]]:
    return (packet.src, packet.sport), (packet.dst, packet.dport)


def _traits(seen: Observation) -> Traits | None:
    found = traits(seen.record.frame, seen.judgement.packet)
    return found if found is not None and found.number == TCP else None


def _span(packet: Packet, parts: Traits) -> int:
    """Return how many sequence numbers a segment takes."""
    flags = packet.tcp_flags or 0
    return len(parts.payload) + bool(flags & TCP_SYN) + bool(flags & TCP_FIN)


def _differs(mine: Traits, theirs: Traits) -> bool:
    """Tell whether two segments of one stream hold other bytes where they overlap."""
    begin = after(mine.start or 0, theirs.start or 0)
    low, high = max(0, begin), min(len(mine.payload), begin + len(theirs.payload))
    if low >= high:
        return False
    return mine.payload[low:high] != theirs.payload[low - begin : high - begin]


def _accepted(seen: Observation) -> bool:
    """Tell whether the checksum lets a kernel take it in."""
    return not seen.judgement.lost and str(seen.judgement.state) != "bad"
