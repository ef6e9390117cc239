"""The packet traces in a capture of an experiment: what its checks judge and its report shows.

Both come from here, the one from the capture as it was made and the other from its file, so that a
verdict and the page that explains it are about the same packet and the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from labctl.capture.session import Evidence
from labctl.packet.frame import Packet
from labctl.topology.points import ObservationPoint
from labctl.tracing.follow import follow
from labctl.tracing.packet_trace import PacketTrace

KINDS = ("SYN", "SYN-ACK", "UDP", "SCTP INIT", "ICMP echo", "ICMPv6 echo")
"""Packets that fit the MTU and that nothing merges, so that their checksum tells something."""


def follow_along(
    evidence: Evidence,
    path: Sequence[ObservationPoint],
    also: Callable[[Packet], bool] | None = None,
) -> list[PacketTrace]:
    """Follow the packets of `KINDS` that go along `path`, and those that `also` tells.

    What goes the other way is told of the path reversed; what neither end has seen may go along.
    Raises `KeyError` where the evidence lacks a hop of the path.
    """
    sent, came = _sources(evidence, path)
    sent_back, came_back = _sources(evidence, path[::-1])
    forward = sent | (came_back - sent_back)
    reverse = sent_back | (came - sent)

    def wanted(packet: Packet) -> bool:
        if also is not None and also(packet):
            return True
        return packet.kind in KINDS and (packet.src in forward or packet.src not in reverse)

    return follow(evidence, path, wanted)


def _sources(
    evidence: Evidence, path: Sequence[ObservationPoint]
) -> tuple[set[str | None], set[str | None]]:
    """Return whose packets the first element of a path has sent, and whose have come to it.

    Its innermost point that saw any tells, since an address may be translated further on.
    """
    for point in path:
        if point.element != path[0].element:
            break
        sent: set[str | None] = set()
        came: set[str | None] = set()
        for seen in evidence[point.name].observations:
            if seen.judgement.kind in KINDS:
                leaves = (seen.direction == "out") is point.inside
                (sent if leaves else came).add(seen.judgement.packet.src)
        if sent or came:
            return sent, came
    return set(), set()


def first_of(
    packet_traces: Iterable[PacketTrace],
    kind: str,
    source: str | None = None,
    destination: str | None = None,
    port: int | None = None,
) -> PacketTrace | None:
    """Return the first packet of a kind: of those seen nearest to its sender the earliest.

    Its addresses, and the port at either end, are as it was sent; None is any. Who repeats a packet
    that was lost sends a second one, which has a packet trace of its own.
    """

    def begun(packet_trace: PacketTrace) -> int:
        return next(number for number, step in enumerate(packet_trace.steps) if step.seen)

    fitting = [
        one
        for one in packet_traces
        if one.kind == kind
        and source in (None, one.source)
        and destination in (None, one.destination)
        and (port is None or port in (one.sport, one.dport))
    ]
    return min(fitting, key=lambda one: (begun(one), one.started_ns), default=None)
