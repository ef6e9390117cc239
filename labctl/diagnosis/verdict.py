"""From packet traces and facts to one sentence: what is wrong, where, and why. Pure functions.

The order matters. First what packets show for themselves (harm at a hop), then where they ended,
then what is missing; a failure that no packet accounts for is never called healthy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from labctl.diagnosis.facts import Facts
from labctl.kinds import registry
from labctl.packet.checksum import Checksum
from labctl.packet.frame import ETH_HLEN, VLAN_HLEN
from labctl.tracing.packet_trace import HopEvent, Outcome, PacketTrace, Step
from labctl.tracing.result import Trace

ETHERNET = ETH_HLEN + VLAN_HLEN
"""Bytes of a frame that an MTU does not count, with one VLAN tag."""


class Finding(StrEnum):
    """What kind of trouble it is."""

    HEALTHY = "healthy"
    LOST = "metadata lost"
    CORRUPTED = "corrupted"
    DROPPED = "dropped"
    OTHER = "not a checksum problem"
    UNKNOWN = "could not tell"


@dataclass(frozen=True)
class Verdict:
    """What was concluded."""

    finding: Finding
    sentence: str
    """One sentence for a reader."""
    where: str = ""
    """The place, such as `router r1 (eth0 to eth1)`."""
    reason: str = ""
    """Why, such as `TCP_CSUM`, `MTU`, `closed port`."""
    evidence: tuple[str, ...] = ()
    """One line a thing that was seen."""
    packet_trace: PacketTrace | None = None
    """The packet that shows it."""


def conclude(trace: Trace, facts: Facts, full: Trace | None = None) -> Verdict:
    """Conclude from a trace, the facts around it, and a trace of full-size packets if there is one.

    `full` is looked at only where the flow itself is healthy.
    """
    for packet_trace in trace.packet_traces:
        faulty = _faulty(packet_trace, trace)
        if faulty is not None:
            return faulty
    if not trace.came:
        return _never_came(trace, facts)
    refused = _refused(trace, facts)
    if refused is not None:
        return refused
    late = _late(trace)
    if late is not None:
        return late
    for packet_trace in trace.packet_traces:
        if packet_trace.outcome in (Outcome.VANISHED, Outcome.DROPPED):
            return _ended(packet_trace, trace, facts)
    if trace.ok is None:
        return _blind(trace)
    return _all_arrived(trace, facts, full)


def _faulty(packet_trace: PacketTrace, trace: Trace) -> Verdict | None:
    """Tell of a packet that was made unacceptable on its way."""
    fault = packet_trace.fault
    if fault is None:
        return None
    where = packet_trace.where
    lines = [_seen(step) for step in (packet_trace.before(fault), fault) if step is not None]
    evidence = [f"{packet_trace.label}:", *lines, *_counted(trace)]
    way = "" if packet_trace in trace.forward else " on the way back"
    if packet_trace.reason:
        last = packet_trace.steps[-1]
        evidence.insert(len(lines) + 1, f"{last.owner}'s kernel dropped it: {packet_trace.reason}")
    if fault.happened is HopEvent.CORRUPTED:
        sentence = f"The packet was corrupted{way} {_at(where)}."
        return Verdict(
            Finding.CORRUPTED, sentence, where, packet_trace.reason, tuple(evidence), packet_trace
        )
    told = f" ({packet_trace.reason})" if packet_trace.reason else ""
    end = f"{packet_trace.steps[-1].owner} drops the packet{told}"
    if packet_trace.outcome not in (Outcome.DOOMED, Outcome.DROPPED):
        end = f"the packet is {packet_trace.outcome}"
        if packet_trace.outcome is Outcome.UNKNOWN:
            end = "what came of the packet was not observed"
    sentence = f"Checksum metadata is lost{way} {_at(where)}: nobody finishes the sum, and {end}."
    return Verdict(
        Finding.LOST, sentence, where, packet_trace.reason, tuple(evidence), packet_trace
    )


def _refused(trace: Trace, facts: Facts) -> Verdict | None:
    """Tell of a port where nothing listens, or of somebody who refuses in its place."""
    resets = [one for one in trace.reverse if one.kind == "RST"]
    closed = [one for one in trace.complaints if one.what == "closed port"]
    said = any(re.match(r"\d+ error 111\b", line) for line in trace.said)
    if not said and not (closed and facts.listening is False):
        return None
    port = f"port {trace.flow.port} of {trace.destination}"
    by = [one.first.owner for one in resets if one.first is not None]
    others = sorted({one for one in by if one != trace.destination})
    evidence = [f"{one.label}: {one.outcome}" for one in resets[:1]]
    evidence += [one.line for one in closed]
    if others or facts.listening:
        who = others[0] if others else trace.destination
        sentence = f"Not a checksum problem: {who} refuses {port}, although it is open."
        if facts.listening is False:
            sentence = f"Not a checksum problem: {who} refuses {port}."
        return Verdict(Finding.OTHER, sentence, who, "refused", tuple(evidence))
    evidence.append(f"no socket of {trace.destination} waits on port {trace.flow.port}")
    if any(one.first and one.first.state is Checksum.VALID for one in resets):
        evidence.append(
            "the reset was summed in software: it says nothing of packets left to a device"
        )
    sentence = f"Not a checksum problem: nothing listens on {port}, it answers at once."
    return Verdict(Finding.OTHER, sentence, trace.destination, "closed port", tuple(evidence))


def _late(trace: Trace) -> Verdict | None:
    """Tell of answers that arrived unharmed, but for a program that had given up."""
    failed = [line for line in trace.said if re.match(r"\d+ error 110\b", line)]
    if trace.flow.protocol != "tcp" or not failed or trace.partial:
        return None
    answers = [one for one in trace.reverse if one.kind == "SYN-ACK"]
    if not answers or any(one.kind == "SYN-ACK" and not _heard(one) for one in trace.reverse):
        return None
    if not all(one.ok for one in trace.forward):
        return None
    sentence = (
        f"Could not tell: {trace.destination}'s answer arrived unharmed, "
        f"but after {trace.source} had given up waiting."
    )
    evidence = (*failed, *(f"{one.label}: {one.outcome}" for one in answers[:2]))
    return Verdict(Finding.UNKNOWN, sentence, trace.source, "late answer", evidence, answers[0])


def _heard(answer: PacketTrace) -> bool:
    """Tell whether an answer arrived: one for a socket that is gone has arrived too."""
    return answer.ok or (answer.outcome is Outcome.DROPPED and answer.reason == "NO_SOCKET")


def _ended(packet_trace: PacketTrace, trace: Trace, facts: Facts) -> Verdict:
    """Tell of a sound packet that did not arrive."""
    last = packet_trace.last
    assert last is not None
    after = packet_trace.missed
    way = "" if packet_trace in trace.forward else " on the way back"
    evidence = [f"{packet_trace.label}:", _seen(last)]
    if after is not None:
        evidence.append(f"  {after.hop}: {after.happened}")
    arrived = sum(one.ok for one in trace.packet_traces)
    if arrived:
        evidence.append(f"{arrived} of {len(trace.packet_traces)} packets arrived unharmed")
    evidence += [one.line for one in trace.complaints]
    if packet_trace.outcome is Outcome.DROPPED and after is None:
        sentence = f"Dropped{way} at {last.owner} because {packet_trace.reason}."
        if packet_trace.reason == "NO_SOCKET" and facts.listening is False:
            port = f"port {trace.flow.port} of {trace.destination}"
            sentence = f"Not a checksum problem: nothing listens on {port}."
            return Verdict(
                Finding.OTHER, sentence, last.owner, "closed port", tuple(evidence), packet_trace
            )
        return Verdict(
            Finding.DROPPED,
            sentence,
            last.owner,
            packet_trace.reason,
            tuple(evidence),
            packet_trace,
        )
    where = packet_trace.where
    reason = _reason(packet_trace, trace, facts)
    evidence += _router_lines(trace, facts)
    if not reason:
        sentence = (
            f"Dropped{way} {_at(where)}; the checksum was sound there, the reason is not told."
        )
        return Verdict(Finding.DROPPED, sentence, where, "", tuple(evidence), packet_trace)
    sentence = f"Not a checksum problem: dropped{way} {_at(where)} because {reason}."
    return Verdict(Finding.OTHER, sentence, where, reason, tuple(evidence), packet_trace)


def _reason(packet_trace: PacketTrace, trace: Trace, facts: Facts) -> str:
    """Say why a packet did not get from one hop to the next; empty where nothing tells."""
    last, after = packet_trace.last, packet_trace.missed
    assert last is not None
    begin = packet_trace.steps.index(last)
    for step in packet_trace.steps[begin : packet_trace.steps.index(after) + 1 if after else None]:
        if step.hop in facts.down:
            return f"{step.hop} is down"
    for one in trace.complaints:
        if one.what == "mtu":
            fits = f" of {one.mtu} bytes" if one.mtu else ""
            return f"it is longer than the MTU{fits}"
        if one.what != "closed port":
            return f"{one.sender} says: {one.text}"
    if after is not None and _forwarded_between(last, after):
        if not facts.forwards.get(last.owner, True):
            return f"nothing forwards in {last.owner}"
        grown = trace.forwarded.get(last.owner, {})
        for name, words in _reasons(last.owner, facts).items():
            if grown.get(name):
                return words
    mtu = _mtu(trace, after) if after is not None else None
    if after is not None and mtu is not None and not last.gso and last.length > mtu + ETHERNET:
        return f"it is longer than the MTU of {mtu} bytes at {after.hop}"
    bridged = after is not None and last.point.at_bridge and after.point.at_bridge
    if bridged and facts.bridge_netfilter:
        return "bridge-netfilter hands bridged packets to the packet filter"
    return ""


def _forwarded_between(last: Step, after: Step) -> bool:
    """Tell whether a router's forwarding is what lies between two steps."""
    one, other = last.point, after.point
    if one.in_router and other.in_router:
        return True
    # Of a router into which packet sockets do not see: in by one interface, out by another.
    same = one.element == other.element and one.link != other.link
    return same and one.of_router and one.at_bridge and other.at_bridge


def _mtu(trace: Trace, step: Step) -> int | None:
    header = trace.evidence[step.hop].header
    return header.mtu if header else None


def _never_came(trace: Trace, facts: Facts) -> Verdict:
    """Tell why nothing of the flow was ever seen."""
    source, address = trace.source, trace.flow.destination
    seen = [
        f"{hop} saw: " + (", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "nothing")
        for hop, kinds in trace.seen().items()
    ]
    evidence = [*(f"{source} said: {line}" for line in trace.said), *seen]
    if trace.partial:
        return _blind(trace)
    kinds = trace.seen().get(trace.path[0].name, {})
    asked = kinds.get("ARP request", 0) + kinds.get("ICMPv6 neighbour solicitation", 0)
    if not facts.route or any(re.match(r"\d+ error 101\b", line) for line in trace.said):
        sentence = f"Not a checksum problem: {source} has no route to {address}."
        return Verdict(Finding.OTHER, sentence, source, "no route", tuple(evidence))
    if asked:
        sentence = (
            f"Not a checksum problem: nobody answers {source} for the address of its next hop "
            f"({facts.route.partition(' dev ')[0]})."
        )
        return Verdict(Finding.OTHER, sentence, source, "no neighbour", tuple(evidence))
    sentence = f"{source} sent nothing of {trace.flow.text}."
    return Verdict(Finding.UNKNOWN, sentence, source, "nothing sent", tuple(evidence))


def _blind(trace: Trace) -> Verdict:
    evidence = (*trace.notes, *(f"{one.label}: {one.outcome}" for one in trace.packet_traces[:6]))
    sentence = "Could not tell: evidence is missing, and what there is shows no harm."
    return Verdict(Finding.UNKNOWN, sentence, "", "partial evidence", evidence)


def _all_arrived(trace: Trace, facts: Facts, full: Trace | None) -> Verdict:
    """Tell of a flow whose every packet arrived."""
    failed = [line for line in trace.said if re.match(r"\d+ error\b", line)]
    if failed or (trace.flow.protocol != "udp" and not trace.reverse):
        if not facts.route_back:
            sentence = (
                f"Not a checksum problem: {trace.destination} got what was sent, "
                f"but has no route back to {trace.flow.source}."
            )
            return Verdict(Finding.OTHER, sentence, trace.destination, "no route", trace.said)
        sentence = (
            f"Could not tell: all that {trace.source} sent arrived unharmed at "
            f"{trace.destination}, which did not answer."
        )
        return Verdict(Finding.UNKNOWN, sentence, trace.destination, "no answer", trace.said)
    if full is not None and not full.ok:
        return _full_size(full, facts)
    evidence = [_course(trace.forward[0])] if trace.forward else []
    evidence += [_course(trace.reverse[0])] if trace.reverse else []
    evidence += [one.line for one in (full.complaints if full else ())]
    sentence = f"Healthy: {trace.flow.text} works, and every packet arrived unharmed."
    return Verdict(Finding.HEALTHY, sentence, evidence=tuple(evidence))


def _full_size(full: Trace, facts: Facts) -> Verdict:
    """Tell of packets of full size that did not, or may not, arrive where small ones do.

    Only a packet that was seen and then ended accuses an MTU: a ping that sent nothing, a capture
    that was cut and a lab that went down meanwhile say nothing of packets on their way.
    """
    found = conclude(full, replace(facts, listening=None))  # the port is not an echo's
    if found.finding in (Finding.LOST, Finding.CORRUPTED):
        return found
    if found.packet_trace is not None and found.packet_trace.outcome in (
        Outcome.VANISHED,
        Outcome.DROPPED,
    ):
        return _large(found, full)
    sentence = (
        "Could not tell: small packets arrive unharmed, but what becomes of those of "
        f"{full.flow.size} bytes was not seen."
    )
    said = (f"{full.source} said: {line}" for line in full.said)
    evidence = (*_blind(full).evidence, *said)
    return Verdict(Finding.UNKNOWN, sentence, "", "partial evidence", evidence)


def _large(found: Verdict, full: Trace) -> Verdict:
    """Tell of packets of full size that end where small ones pass."""
    told = [one for one in full.complaints if one.what == "mtu"]
    if told:
        mtu = f" of {told[0].mtu} bytes" if told[0].mtu else ""
        sentence = f"Healthy: small packets pass; a smaller MTU{mtu} on the way is told to senders."
        return Verdict(
            Finding.HEALTHY, sentence, found.where, "MTU", found.evidence, found.packet_trace
        )
    if any(one.what != "closed port" for one in full.complaints):
        return found  # whoever complains says why, and it is not the size
    reason = f" because {found.reason}" if found.reason else ""
    sentence = (
        f"Not a checksum problem: small packets pass, those of {full.flow.size} bytes end "
        f"{_at(found.where)}{reason}, and nobody tells their sender."
    )
    return Verdict(Finding.OTHER, sentence, found.where, "MTU", found.evidence, found.packet_trace)


def _at(where: str) -> str:
    return where if where.startswith("between ") else f"at {where}"


def _seen(step: Step) -> str:
    """One line of evidence: the hop, field and metadata, and the field beside its two sums."""
    sums = [
        f"{name} {value:#06x}"
        for name, value in (
            ("field", step.field),
            ("pseudo-header sum", step.pseudo_sum),
            ("full sum", step.expected),
        )
        if value is not None
    ]
    tail = f" ({', '.join(sums)})" if sums else ""
    return f"  {step.hop}: {step.knowledge or step.happened}{tail}"


def _course(packet_trace: PacketTrace) -> str:
    """One line for a packet trace that went well."""
    states = dict.fromkeys(step.knowledge for step in packet_trace.steps if step.seen)
    hops = sum(step.seen for step in packet_trace.steps)
    return f"{packet_trace.label}: {', then '.join(states)} at {hops} hops"


def _counted(trace: Trace) -> list[str]:
    return [f"{node}: {_words(grown)}" for node, grown in trace.errors.items()]


def _reasons(router: str, facts: Facts) -> Mapping[str, str]:
    """Return what a router's counters mean, those that tell most first.

    Where it is not known what forwarded there, its counters may be of any kind.
    """
    kind = registry.FORWARDERS.find(facts.kinds.get(router, ""))
    if kind:
        return kind.counters
    return {
        name: words for one in registry.FORWARDERS.usable() for name, words in one.counters.items()
    }


def _router_lines(trace: Trace, facts: Facts) -> list[str]:
    lines = []
    for name, grown in trace.forwarded.items():
        reasons = _reasons(name, facts)
        told = {key: value for key, value in grown.items() if key in reasons}
        if told:
            lines.append(f"{name}: {_words(told)}")
    return lines


def _words(grown: Mapping[str, int]) -> str:
    return ", ".join(f"{name} grew by {count}" for name, count in grown.items())
