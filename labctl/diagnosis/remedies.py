"""Knobs: what may be turned so that a flow's checksums survive, and the proof of which do.

A proof turns one knob at a time on the live lab, sends the flow, and puts everything back. Nobody
is believed: features are read before and after, and a mend counts only if the flow works and no
receiver counts a checksum error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from labctl.capture import counters as kernel_counters
from labctl.diagnosis.facts import Facts, left_to_device
from labctl.diagnosis.settings import defer_signals, put_back, read, restoring
from labctl.diagnosis.verdict import Verdict
from labctl.errors import LabctlError
from labctl.events import Emit, Event, silent
from labctl.kinds import nics, registry
from labctl.kinds.base import ForwarderKind
from labctl.kinds.nics.base import Completion
from labctl.lab.lab import Lab
from labctl.lab.watch import counters
from labctl.network import features
from labctl.sandbox.deadline import Deadline
from labctl.topology.points import ObservationPoint
from labctl.tracing.flow import Flow, send_command
from labctl.tracing.trace import CONNECT_SECONDS, trace

__all__ = ["Fix", "Proof", "Trial", "candidates", "prove"]

LOOK_SECONDS = 0.1
ATTEMPT_SECONDS = 60.0
OVER = "not tried: the time was over"
MIN_CSUM_ERRORS = 2
"""Checksum errors that make a failure: a packet and its repetition died of the same cause."""
OFF = {"tx-checksumming": False}
"""Of a link of the host's: its kernel completes what is sent by it."""

Layer = Literal["guest", "tap", "wire", "bridge-side veth", "router-side veth", "router"]

_COSTS: Mapping[str, str] = {
    "tap": "the host's CPU sums every packet to the guest and cuts super-frames",
    "wire": "the host's CPU sums every packet that goes into the wire and cuts super-frames",
    "bridge-side veth": "the host's CPU sums every packet to the router and cuts super-frames",
    "router-side veth": "the host's CPU sums every packet the router sends",
}


@dataclass(frozen=True)
class Fix:
    """One thing, or the same thing at both ends, that can be turned."""

    name: str
    """Such as `vm1 tx off`."""
    layer: Layer
    how: str
    """A command or setting that does the same for good."""
    cost: str
    should: bool
    """Whether it is expected to mend the flow."""
    places: tuple[ObservationPoint, ...] = ()
    """The host's links whose `tx` is turned off."""
    guests: tuple[tuple[ObservationPoint, Completion], ...] = ()
    """The guests' interfaces, and how each guest completes its checksums."""
    router: str = ""
    kind: str | None = None
    """What kind the router becomes."""

    def to_json(self) -> dict[str, Any]:
        """Return the knob as plain data."""
        return {
            "name": self.name,
            "layer": self.layer,
            "how": self.how,
            "cost": self.cost,
            "should_mend": self.should,
        }


@dataclass(frozen=True)
class Trial:
    """What came of turning one knob."""

    fix: Fix
    works: bool | None
    """None: it could not be tried, or not be told."""
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return the trial as plain data."""
        return {"knob": self.fix.name, "works": self.works, "text": self.text}


@dataclass(frozen=True)
class Proof:
    """All trials, and the state before and after them."""

    trials: tuple[Trial, ...]
    values: int
    """How many values were read, before and after, and found the same."""
    before: str
    """What the flow did with nothing turned, just before the trials."""

    def to_json(self) -> dict[str, Any]:
        """Return the proof as plain data."""
        return {
            "before": self.before,
            "trials": [trial.to_json() for trial in self.trials],
            "values_put_back": self.values,
        }


def candidates(
    path: Sequence[ObservationPoint], verdict: Verdict, facts: Facts, version: int = 4
) -> tuple[Fix, ...]:
    """Return the knobs that could mend lost metadata of an IP version, those expected to first."""
    found: list[Fix] = []
    source, destination = path[0], path[-1]
    ends = (source, destination)
    lost_in = verdict.where.split()[1] if verdict.where.startswith("router ") else ""
    done = set(facts.finishing)
    for chosen in ((source, destination), (source,), (destination,)):
        rest = _elements(ends) - _elements(chosen) - done
        turned = [hop for hop in chosen if hop.element not in done]
        if len(turned) < len(chosen):
            continue  # it is off there already: nothing would be tried
        models = [registry.nic(facts.nics.get(hop.element, nics.DEFAULT)) for hop in turned]
        ways = [model.completions(version) for model in models]
        for rank in range(max(map(len, ways), default=0)):
            taken = [way[min(rank, len(way) - 1)] for way in ways]
            found.append(_completing(turned, taken, should=not rest))
    taps = [hop for hop in path if hop.at_bridge and hop.element in _elements(ends)]
    found.append(_links("TAP", "tap", taps, should=False))
    for name in dict.fromkeys(hop.element for hop in path if hop.on_wire):
        links = [hop for hop in path if hop.on_wire and hop.element == name]
        here = verdict.where.startswith(f"{name} (")
        found.append(_links("wire", "wire", (links[0], links[-1]), should=here))
    routers = {hop.element: hop.of_guest for hop in path if hop.of_router}
    for name, is_machine in routers.items():
        here = name == lost_in
        forwarder = registry.FORWARDERS.find(facts.kinds.get(name, ""))
        found += _other_kinds(name, forwarder, is_machine, should=here)
        if is_machine:  # its interfaces are its own
            continue
        outer = [hop for hop in path if hop.element == name and hop.at_bridge]
        inner = [hop for hop in path if hop.element == name and hop.in_router]
        found.append(_links(f"{name}'s bridge-side", "bridge-side veth", outer, should=here))
        if inner:
            found.append(_links(f"{name}'s own", "router-side veth", inner, should=False))
    return tuple(sorted(found, key=lambda fix: not fix.should))


def _other_kinds(
    router: str, forwarder: ForwarderKind | None, is_machine: bool, *, should: bool
) -> Iterator[Fix]:
    """Yield the kinds that a router can have instead of one; a machine those that run in guests."""
    for remedy in forwarder.remedies if forwarder else ():
        kind = registry.FORWARDERS.find(remedy.kind)
        if kind is None or (is_machine and not kind.in_guests):
            continue
        yield Fix(
            name=f"{router} as {remedy.kind}",
            layer="router",
            how=remedy.how(router, "forwarder" if is_machine else "kind"),
            cost=remedy.cost,
            should=should,
            router=router,
            kind=remedy.kind,
        )


def _completing(
    ends: Sequence[ObservationPoint], ways: Sequence[Completion], *, should: bool
) -> Fix:
    guests = tuple(zip(ends, ways, strict=True))
    names = [f"{way.name} in {hop.element}" for hop, way in guests]
    if len({way.name for way in ways}) == 1:
        names = [f"{ways[0].name} in {' and '.join(hop.element for hop in ends)}"]
    return Fix(
        name=" and ".join(names),
        layer="guest",
        how="; ".join(f"{hop.element}: {way.how(hop.link)}" for hop, way in guests),
        cost="; ".join(dict.fromkeys(way.cost for way in ways)),
        should=should,
        guests=guests,
    )


def _elements(hops: Sequence[ObservationPoint]) -> set[str]:
    return {hop.element for hop in hops}


def _links(what: str, layer: Layer, places: Sequence[ObservationPoint], *, should: bool) -> Fix:
    names = " and ".join(hop.name for hop in places)
    # A router by its name, a dom0 by its host's; what is in the lab's own namespaces by none.
    where = [" ".join(filter(None, ("labctl exec", hop.netns or hop.context))) for hop in places]
    how = "; ".join(
        f"{prefix} -- ethtool -K {hop.link} tx off"
        for prefix, hop in zip(where, places, strict=True)
    )
    endings = {"TAP": "the TAPs", "wire": "the ends of the wire"}
    return Fix(
        name=f"tx off at {endings.get(what, f'{what} veths')} {names}",
        layer=layer,
        how=how,
        cost=_COSTS[layer],
        should=should,
        places=tuple(places),
    )


def prove(
    lab: Lab,
    flow: Flow,
    path: Sequence[ObservationPoint],
    fixes: Sequence[Fix],
    emit: Emit = silent,
    within: Deadline | None = None,
) -> Proof:
    """Turn each knob, send the flow, put everything back; return what worked.

    What there is no time for `within` the deadline is not tried, and told so. Raises `LabctlError`
    when something could not be put back, or the lab fails.
    """
    before = read(lab, path)
    trials: list[Trial] = []
    with restoring(lab, before, path):
        works, untouched = attempt(lab, flow, path, within)
        if works:
            untouched += " (so the trials below prove nothing)"
        for number, fix in enumerate(fixes):
            if within is not None and within.passed:
                trials.append(Trial(fix, None, OVER))
                continue
            emit(Event("knob", fix.name, "start", fraction=number / len(fixes)))
            try:
                try:
                    with defer_signals():
                        _turn(lab, fix, flow.version)
                    works, text = attempt(lab, flow, path, within)
                except LabctlError as wrong:
                    works, text = None, f"cannot be tried: {wrong.message}"
            finally:
                with defer_signals():
                    put_back(lab, before, path)
            trials.append(Trial(fix, works, text))
            emit(Event("knob", fix.name, "done", text))
    return Proof(tuple(trials), before.count, untouched)


def _turn(lab: Lab, fix: Fix, version: int) -> None:
    if fix.kind is not None:
        lab.forwarder(fix.router).set_kind(fix.kind)
    for hop, way in fix.guests:
        node = lab.node(hop.element)
        node.set_features(way.features, hop.link)
        if way.csum_action:
            for command in way.setup(hop.link):
                node.run(command)
        elif left_to_device(node.features(hop.link), version):
            raise LabctlError(f"{hop.element}'s {hop.link} did not turn off tx-checksumming")
    for hop in fix.places:
        lab.place(hop.context).call(features.change, hop.link, OFF, hop.netns)


def attempt(
    lab: Lab, flow: Flow, path: Sequence[ObservationPoint], within: Deadline | None = None
) -> tuple[bool | None, str]:
    """Send the flow once; return whether it works (None: not to be told) and words for it."""
    seconds = ATTEMPT_SECONDS if within is None else min(ATTEMPT_SECONDS, within.left)
    if not seconds:
        return None, OVER
    if flow.protocol != "tcp":
        found = trace(lab, flow, path, receive=False, within=within)
        return found.ok, "all arrived unharmed" if found.ok else "not all arrived unharmed"
    nodes = {hop.element: lab.node(hop.element) for hop in (path[0], path[-1])}
    before = {name: counters(node) for name, node in nodes.items()}

    def grown() -> dict[str, int]:
        now = {n: kernel_counters.grown(before[n], counters(node)) for n, node in nodes.items()}
        return {name: sum(counts.values()) for name, counts in now.items() if counts}

    source = nodes[path[0].element]
    job = source.start(send_command(flow, 1, CONNECT_SECONDS, source.model))
    deadline = Deadline(seconds, f"connecting to {flow.destination}")
    errors: dict[str, int] = {}
    try:
        while job.poll() is None and not any(count >= MIN_CSUM_ERRORS for count in errors.values()):
            if deadline.passed:
                return None, f"not told within {seconds:.0f} s"
            time.sleep(LOOK_SECONDS)
            errors = grown()
        output = job.output
        errors = grown()
    finally:
        job.stop()
    counted = ", ".join(f"{name} counted {count} checksum errors" for name, count in errors.items())
    if counted:
        return False, f"{'connects, but ' if 'connected' in output else 'hangs: '}{counted}"
    if "connected" in output:
        return True, "connects, no checksum error"
    line = next((one for one in output.splitlines() if " error " in one), "")
    number, _, words = line.partition(" error ")[2].partition(" ")
    if number in ("", "110"):
        return None, "no answer, and no checksum error either"
    return False, words.lower()
