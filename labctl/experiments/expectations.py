"""What must come of a crossing, derived from what the elements on its path do to a packet.

`labctl.topology.expected` works out a packet's states; here they are held against what was seen:
the states at every hop, where the metadata was lost, what became of SSH and UDP, and what the
kernels counted. Nothing here names a kind: a kind whose `effect` is wrong fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from labctl.experiments.evidence import PacketSelector, check_states, fault_location
from labctl.experiments.probes import Answer
from labctl.experiments.run_context import Arm, Trial
from labctl.experiments.traffic_run import TrafficRun, check_answer, check_no_errors, run_traffic
from labctl.packet.checksum import Checksum
from labctl.topology.expected import AS_THEY_COME, Change, Ends, Expected, expect
from labctl.topology.graph import (
    ForwardingGuest,
    GuestElement,
    PacketPath,
    Traversal,
    Uplink,
)
from labctl.topology.points import ObservationPoint
from labctl.tracing.packet_trace import place_between

Words = Callable[[Expected], str]
"""How a check says what is expected of a packet."""
_UDP_COUNTER = {4: "UdpInCsumErrors", 6: "Udp6InCsumErrors"}


def check_path(
    trial: Trial,
    arm: Arm,
    source: str,
    destination: str,
    version: int,
    *,
    interface: str | None = None,
    ends: Ends | None = None,
    with_ping: bool = True,
    with_udp: bool = True,
) -> TrafficRun:
    """Cross the network, and check everything that follows from what is on the way.

    `ends` says what is different about the two ends; None takes it from the offloads in effect, as
    they are read back. Raises as `run_traffic` does.
    """
    traffic = run_traffic(
        trial, arm, source, destination, version,
        interface=interface, with_ping=with_ping, with_udp=with_udp,
    )  # fmt: skip
    check_traffic(arm, traffic, in_effect(traffic) if ends is None else ends)
    return traffic


def in_effect(traffic: TrafficRun) -> Ends:
    """Return what the offloads that were read back for a crossing make of its ends.

    A guest whose driver does not complete checksums of an IP version lets its kernel do it; so does
    the other side of the interface with what it sends to the guest. Of a guest that does not tell
    its offloads it is what was first seen of what it sent, or forwarded: both are sound.
    """
    finished_by, completing = [], []
    for here in traffic.route.traversals:
        if not isinstance(here.element, GuestElement | ForwardingGuest | Uplink):
            continue
        name = here.element.node.name
        for port in filter(None, (here.entry, here.exit)):
            features = traffic.offloads.get(f"{name}/{port.interface}", {})
            guest, tap = features.get("guest"), features.get("tap")
            ours = isinstance(here.element, GuestElement)
            passed = isinstance(here.element, ForwardingGuest)
            if guest is None and (ours or passed):
                finished_by += [name] * _came_finished(traffic, here)
            elif ours and guest is not None and not _completes(guest, traffic.version):
                finished_by.append(name)
            elif passed and guest is not None and not _completes(guest, traffic.version):
                completing += [one.name for one in port.points if one.inside]
            if tap is not None and not _completes(tap, traffic.version):
                completing += [one.name for one in port.points if one.at_bridge]
    return Ends(finished_by, completing)


def _came_finished(traffic: TrafficRun, here: Traversal) -> bool:
    """Tell whether what a guest sent or forwarded was finished where that was seen first."""
    for wanted in (traffic.syn, traffic.syn_ack, traffic.datagram):
        steps = traffic.steps(wanted)
        left = here.exit if wanted.source == traffic.there else here.entry
        names = [point.name for point in left.points] if left else []
        seen = [step.told for step in steps if step.hop.name in names and step.told.seen]
        if seen:
            return seen[0].state is Checksum.VALID
    return False


def _completes(features: Mapping[str, bool], version: int) -> bool:
    """Whether a link's driver takes it on to complete the checksums of an IP version."""
    names = ("tx-checksum-ip-generic", f"tx-checksum-ipv{version}")
    return any(features.get(name, False) for name in names)


def expected_of(traffic: TrafficRun, wanted: PacketSelector, ends: Ends = AS_THEY_COME) -> Expected:
    """Work out what is to be seen of a packet of a crossing."""
    forward = wanted.source == traffic.there
    route = traffic.route if forward else reverse(traffic.route)
    protocol = "udp" if wanted.kind == "UDP" else "tcp"
    return expect(route, protocol, traffic.version, ends)


def reverse(route: PacketPath) -> PacketPath:
    """Return the same way in the other direction."""
    return PacketPath(
        tuple(Traversal(one.element, one.exit, one.entry) for one in reversed(route.traversals))
    )


def check_traffic(
    arm: Arm, traffic: TrafficRun, ends: Ends = AS_THEY_COME, *, words: Words | None = None
) -> None:
    """Check all that follows from the elements on the path of a crossing.

    Those are the answers to the probes; the states of the SYN, of its answer where the SYN gets
    there, and of the datagram where one was sent; where each of them lost its metadata or was
    dropped; and what the kernel of the end counted that got something without its metadata.
    """
    syn, syn_ack, datagram = (
        expected_of(traffic, wanted, ends)
        for wanted in (traffic.syn, traffic.syn_ack, traffic.datagram)
    )
    tcp = [(traffic.syn, syn)]
    if syn.accepted:  # else nobody answers
        tcp.append((traffic.syn_ack, syn_ack))
    packets = [*tcp, *([(traffic.datagram, datagram)] if traffic.udp else [])]
    _check_probe(arm, traffic, traffic.connected_by, traffic.ssh, tcp)
    if traffic.ping:
        check_answer(arm, "ping", traffic.ping, works=True)
    if traffic.udp:
        _check_probe(arm, traffic, "udp", traffic.udp, packets[-1:])
    for wanted, expected in packets:
        check_packet(arm, traffic, wanted, expected, words)
        if expected.lost:
            _check_lost(arm, traffic, wanted, expected.lost)
        if expected.dropped:
            _check_dropped(arm, traffic, wanted, expected)
    refused = [(wanted, one) for wanted, one in packets if not (one.accepted or one.dropped)]
    if refused:
        _check_refused(arm, traffic, refused[0][0])
    elif not any(one.dropped for _, one in packets):
        check_no_errors(arm, traffic)


def check_packet(
    arm: Arm,
    traffic: TrafficRun,
    wanted: PacketSelector,
    expected: Expected,
    words: Words | None = None,
) -> bool:
    """Check a packet's states at every hop that it reaches; `words` says what is expected."""
    steps = [step for step in traffic.steps(wanted) if step.hop.name in expected.states]
    text = words(expected) if words else expected.words
    return check_states(arm, steps, wanted, text, expected.state)


def _check_probe(
    arm: Arm,
    traffic: TrafficRun,
    name: str,
    answer: Answer | None,
    packets: Sequence[tuple[PacketSelector, Expected]],
) -> None:
    """Check what became of a probe that needs these packets to be accepted."""
    dropped = [(wanted, one) for wanted, one in packets if one.dropped]
    if not dropped or (answer and answer.works is not None):
        works = all(one.accepted for _, one in packets)
        check_answer(arm, name, answer, works=works)
        return
    # No receiver counts what does not reach it, so the probe cannot tell: the captures can.
    assert answer is not None
    ended = _ended(traffic, *dropped[0])
    arm.check(name, "no answer", answer.text, ended, evidence=answer.attempts)


def _ended(traffic: TrafficRun, wanted: PacketSelector, expected: Expected) -> bool | None:
    """Tell whether a packet was seen as far as expected and no further; None: not all was seen."""
    steps = traffic.steps(wanted)
    reached = [step for step in steps if step.hop.name in expected.states]
    beyond = [step for step in steps if step.hop.name in expected.unreached]
    if any(step.seen for step in beyond) or any(s.seen is None and s.complete for s in reached):
        return False
    return None if any(step.seen is None and not step.complete for step in steps) else True


def _check_dropped(
    arm: Arm, traffic: TrafficRun, wanted: PacketSelector, expected: Expected
) -> None:
    """Check that a packet is seen nowhere behind the element that drops it."""
    assert expected.dropped is not None
    steps = traffic.steps(wanted)
    seen = [step.hop.name for step in steps if step.seen]
    arm.check(
        f"dropped, {wanted.kind}",
        f"in {expected.dropped.element}: not seen after it",
        f"last seen at {seen[-1]}" if seen else "seen nowhere",
        _ended(traffic, wanted, expected),
        evidence=[step.line for step in steps],
    )


def _check_lost(arm: Arm, traffic: TrafficRun, wanted: PacketSelector, change: Change) -> None:
    """Check where a packet lost its metadata; a hop that missed something may have been the one."""
    steps = traffic.steps(wanted)
    name, place = f"metadata lost, {wanted.kind}", blamed(change, [step.hop for step in steps])
    where = fault_location(steps)
    blind = [step.hop.name for step in steps if step.seen is None and not step.complete]
    if where != place and blind:
        observed = f"the capture is not complete at {', '.join(blind)}"
        arm.check(name, place, observed, None)
        return
    arm.check(name, place, where or "not lost anywhere", where == place)


def blamed(change: Change, points: Sequence[ObservationPoint]) -> str:
    """Name the place of a change as `fault_location` does; `points` are those of its way."""
    before, after = change.before, change.after
    if after is None:
        return change.element
    if before is None:
        return f"{change.element} itself"
    return place_between(points[points.index(before) : points.index(after) + 1])


def _check_refused(arm: Arm, traffic: TrafficRun, wanted: PacketSelector) -> None:
    """Check that the kernel of a packet's receiver counted it as damaged, and that it says so."""
    forward = wanted.source == traffic.there
    victim = traffic.destination if forward else traffic.source
    udp = wanted.kind == "UDP"
    answer = traffic.udp if udp else traffic.ssh
    counter = _UDP_COUNTER[traffic.version] if udp else "TcpInCsumErrors"
    assert answer is not None
    grown = answer.grown(victim, counter)
    arm.check(
        f"{counter} at {victim}",
        "grows" if udp else "grows while SSH waits",
        f"grew by {grown}",
        None if answer.works is None else grown > 0,
    )
    what = "datagram" if udp else f"{wanted.kind}s"
    _check_reasons(arm, traffic, victim, what, "UDP_CSUM" if udp else "TCP_CSUM")


def _check_reasons(arm: Arm, traffic: TrafficRun, victim: str, what: str, reason: str) -> None:
    name, expected = f"drop reason at {victim}", f"the kernel drops the {what} for {reason}"
    drops = traffic.drops.get(victim, ())
    reasons = sorted({drop.reason for drop in drops if drop.reason})
    if why_not := traffic.no_drops.get(victim):
        arm.skip(name, expected, why_not)
    elif drops and not reasons:
        arm.skip(name, expected, "the guest's kernel gives no reasons (before 5.17)")
    else:
        arm.check(
            name,
            expected,
            ", ".join(reasons) or "no drop seen",
            reason in reasons,
            evidence=[f"{drop.reason} at {drop.location}" for drop in drops[:4]],
        )
