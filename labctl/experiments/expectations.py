"""What must come of a crossing, derived from what the elements on its path do to a packet.

`labctl.topology.expected` works out a packet's states; here they are held against what was seen:
the states at every hop, where the metadata was lost, what became of SSH and UDP, and what the
kernels counted. Nothing here names a kind: a kind whose `effect` is wrong fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from labctl.experiments.evidence import Wanted, check_states, culprit
from labctl.experiments.probes import Answer
from labctl.experiments.run_context import Arm, Trial
from labctl.experiments.traffic_run import Crossing, check_answer, check_no_errors, cross
from labctl.topology.expected import AS_THEY_COME, Change, Ends, Expected, expect
from labctl.topology.graph import GuestElement, PacketPath, Traversal, Uplink
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
) -> Crossing:
    """Cross the network, and check everything that follows from what is on the way.

    `ends` says what is different about the two ends; None takes it from the offloads in effect, as
    they are read back. Raises as `cross` does.
    """
    crossing = cross(
        trial, arm, source, destination, version,
        interface=interface, with_ping=with_ping, with_udp=with_udp,
    )  # fmt: skip
    check_crossing(arm, crossing, in_effect(crossing) if ends is None else ends)
    return crossing


def in_effect(crossing: Crossing) -> Ends:
    """Return what the offloads that were read back for a crossing make of its ends.

    A guest whose driver does not finish checksums of an IP version lets its kernel do it; so does
    the other side of the interface with what it sends to the guest.
    """
    finished_by, completing = [], []
    for here in crossing.route.traversals:
        if not isinstance(here.element, GuestElement | Uplink):
            continue
        name = here.element.node.name
        for port in filter(None, (here.entry, here.exit)):
            features = crossing.offloads.get(f"{name}/{port.interface}", {})
            guest, tap = features.get("guest"), features.get("tap")
            ours = isinstance(here.element, GuestElement)
            if ours and guest is not None and not _completes(guest, crossing.version):
                finished_by.append(name)
            if tap is not None and not _completes(tap, crossing.version):
                completing += [one.name for one in port.points if one.at_bridge]
    return Ends(finished_by, completing)


def _completes(features: Mapping[str, bool], version: int) -> bool:
    """Whether a link's driver takes it on to finish the checksums of an IP version."""
    names = ("tx-checksum-ip-generic", f"tx-checksum-ipv{version}")
    return any(features.get(name, False) for name in names)


def expected_of(crossing: Crossing, wanted: Wanted, ends: Ends = AS_THEY_COME) -> Expected:
    """Work out what is to be seen of a packet of a crossing."""
    forward = wanted.source == crossing.there
    route = crossing.route if forward else _back(crossing.route)
    protocol = "udp" if wanted.kind == "UDP" else "tcp"
    return expect(route, protocol, crossing.version, ends)


def _back(route: PacketPath) -> PacketPath:
    """Return the same way in the other direction."""
    return PacketPath(
        tuple(Traversal(one.element, one.exit, one.entry) for one in reversed(route.traversals))
    )


def check_crossing(
    arm: Arm, crossing: Crossing, ends: Ends = AS_THEY_COME, *, words: Words | None = None
) -> None:
    """Check all that follows from the elements on the path of a crossing.

    Those are the answers to the probes; the states of the SYN, of its answer where the SYN gets
    there, and of the datagram where one was sent; where each of them lost its metadata or was
    dropped; and what the kernel of the end counted that got something without its metadata.
    """
    syn, syn_ack, datagram = (
        expected_of(crossing, wanted, ends)
        for wanted in (crossing.syn, crossing.syn_ack, crossing.datagram)
    )
    tcp = [(crossing.syn, syn)]
    if syn.accepted:  # else nobody answers
        tcp.append((crossing.syn_ack, syn_ack))
    packets = [*tcp, *([(crossing.datagram, datagram)] if crossing.udp else [])]
    _check_probe(arm, crossing, "ssh", crossing.ssh, tcp)
    if crossing.ping:
        check_answer(arm, "ping", crossing.ping, works=True)
    if crossing.udp:
        _check_probe(arm, crossing, "udp", crossing.udp, packets[-1:])
    for wanted, expected in packets:
        check_packet(arm, crossing, wanted, expected, words)
        if expected.lost:
            _check_lost(arm, crossing, wanted, expected.lost)
        if expected.dropped:
            _check_dropped(arm, crossing, wanted, expected)
    refused = [(wanted, one) for wanted, one in packets if not (one.accepted or one.dropped)]
    if refused:
        _check_refused(arm, crossing, refused[0][0])
    elif not any(one.dropped for _, one in packets):
        check_no_errors(arm, crossing)


def check_packet(
    arm: Arm, crossing: Crossing, wanted: Wanted, expected: Expected, words: Words | None = None
) -> bool:
    """Check a packet's states at every hop that it reaches; `words` says what is expected."""
    steps = [step for step in crossing.steps(wanted) if step.hop.name in expected.states]
    text = words(expected) if words else expected.words
    return check_states(arm, steps, wanted, text, expected.state)


def _check_probe(
    arm: Arm,
    crossing: Crossing,
    name: str,
    answer: Answer | None,
    packets: Sequence[tuple[Wanted, Expected]],
) -> None:
    """Check what became of a probe that needs these packets to be accepted."""
    dropped = [(wanted, one) for wanted, one in packets if one.dropped]
    if not dropped or (answer and answer.works is not None):
        works = all(one.accepted for _, one in packets)
        check_answer(arm, name, answer, works=works)
        return
    # No receiver counts what does not reach it, so the probe cannot tell: the captures can.
    assert answer is not None
    ended = _ended(crossing, *dropped[0])
    arm.check(name, "no answer", answer.text, ended, evidence=answer.attempts)


def _ended(crossing: Crossing, wanted: Wanted, expected: Expected) -> bool | None:
    """Tell whether a packet was seen as far as expected and no further; None: not all was seen."""
    steps = crossing.steps(wanted)
    reached = [step for step in steps if step.hop.name in expected.states]
    beyond = [step for step in steps if step.hop.name in expected.unreached]
    if any(step.seen for step in beyond) or any(s.seen is None and s.complete for s in reached):
        return False
    return None if any(step.seen is None and not step.complete for step in steps) else True


def _check_dropped(arm: Arm, crossing: Crossing, wanted: Wanted, expected: Expected) -> None:
    """Check that a packet is seen nowhere behind the element that drops it."""
    assert expected.dropped is not None
    steps = crossing.steps(wanted)
    seen = [step.hop.name for step in steps if step.seen]
    arm.check(
        f"dropped, {wanted.kind}",
        f"in {expected.dropped.element}: not seen after it",
        f"last seen at {seen[-1]}" if seen else "seen nowhere",
        _ended(crossing, wanted, expected),
        evidence=[step.line for step in steps],
    )


def _check_lost(arm: Arm, crossing: Crossing, wanted: Wanted, change: Change) -> None:
    """Check where a packet lost its metadata; a hop that missed something may have been the one."""
    steps = crossing.steps(wanted)
    name, blamed = f"metadata lost, {wanted.kind}", _blamed(change, [step.hop for step in steps])
    where = culprit(steps)
    blind = [step.hop.name for step in steps if step.seen is None and not step.complete]
    if where != blamed and blind:
        observed = f"the capture is not complete at {', '.join(blind)}"
        arm.check(name, blamed, observed, None)
        return
    arm.check(name, blamed, where or "not lost anywhere", where == blamed)


def _blamed(change: Change, points: Sequence[ObservationPoint]) -> str:
    """Name the place of a change as `culprit` does; `points` are those of the packet's way."""
    before, after = change.before, change.after
    if after is None:
        return change.element
    if before is None:
        return f"{change.element} itself"
    return place_between(points[points.index(before) : points.index(after) + 1])


def _check_refused(arm: Arm, crossing: Crossing, wanted: Wanted) -> None:
    """Check that the kernel of a packet's receiver counted it as damaged, and that it says so."""
    forward = wanted.source == crossing.there
    victim = crossing.destination if forward else crossing.source
    udp = wanted.kind == "UDP"
    answer = crossing.udp if udp else crossing.ssh
    counter = _UDP_COUNTER[crossing.version] if udp else "TcpInCsumErrors"
    assert answer is not None
    grown = answer.grown(victim, counter)
    arm.check(
        f"{counter} at {victim}",
        "grows" if udp else "grows while SSH waits",
        f"grew by {grown}",
        None if answer.works is None else grown > 0,
    )
    what = "datagram" if udp else f"{wanted.kind}s"
    _check_reasons(arm, crossing, victim, what, "UDP_CSUM" if udp else "TCP_CSUM")


def _check_reasons(arm: Arm, crossing: Crossing, victim: str, what: str, reason: str) -> None:
    name, expected = f"drop reason at {victim}", f"the kernel drops the {what} for {reason}"
    drops = crossing.drops.get(victim, ())
    reasons = sorted({drop.reason for drop in drops if drop.reason})
    if why_not := crossing.no_drops.get(victim):
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
