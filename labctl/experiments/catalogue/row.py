"""A row of the catalogue as an experiment: what is expected of its path, and what is measured.

The expectation is worked out of the effects of the kinds on the path, before anything is started.
The measurement is that of the experiment `effects`, from vm1 to vm2 over IPv4, over IPv6 without a
datagram, and then what `labctl diagnose` says, which for a path that breaks proves remedies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from labctl import topology as topologies
from labctl.diagnosis.diagnose import Diagnosis, diagnose
from labctl.diagnosis.remedies import Fix
from labctl.diagnosis.verdict import Finding
from labctl.experiments import dhcp, probes
from labctl.experiments.catalogue.rows import Control, Row
from labctl.experiments.expectations import blamed, check_path, expected_of, reverse
from labctl.experiments.model import Experiment
from labctl.experiments.run_context import Arm, Trial
from labctl.experiments.traffic_run import TrafficRun
from labctl.kinds import nics, registry
from labctl.kinds.base import Effect, Kind, Passing
from labctl.results.catalogue import Diagnosed, Element, PacketWay, Remedy, Traffic
from labctl.topology import Topology
from labctl.topology.expected import Expected, expect
from labctl.topology.graph import (
    ForwardingGuest,
    GuestElement,
    PacketPath,
    RouterElement,
    Segment,
    Traversal,
    Wire,
    find_path,
)
from labctl.tracing.plan import plan

SOURCE, DESTINATION = "vm1", "vm2"
PREFIX = "catalogue-"
"""What the names of rows begin with where they are experiments."""
SYN = Passing("tcp", 4)


@dataclass(frozen=True)
class Prediction:
    """What a row is expected to come to."""

    path: PacketPath
    elements: tuple[Element, ...]
    syn: Expected
    answer: Expected
    """Of the SYN-ACK, which takes the same way back."""
    control: Control | None = None

    @property
    def outcome(self) -> Literal["works", "breaks", "control"]:
        """Return `works`, `breaks` or `control`."""
        if self.control:
            return "control"
        return "works" if self.syn.accepted and self.answer.accepted else "breaks"

    @property
    def words(self) -> str:
        """Return what is expected, in one sentence."""
        if self.control:
            return self.control.expected
        end = "accepted" if self.syn.accepted else "refused by its receiver"
        told = f"a SYN is {self.syn.words}, and {end}"
        if self.syn.accepted and not self.answer.accepted:
            told += f"; its answer is {self.answer.words}, and refused"
        return told

    @property
    def text(self) -> str:
        """Return everything on the way in one line."""
        return " - ".join(_named(self.path))

    @property
    def place(self) -> str:
        """Return the place where the metadata is lost, as a trace names it; empty for none."""
        if self.syn.lost:
            return blamed(self.syn.lost, self.path.points)
        return blamed(self.answer.lost, self.path.points[::-1]) if self.answer.lost else ""

    def element(self, effect: Effect) -> str:
        """Return the name of the first element that has an effect on the SYN, or its answer."""
        changes = (*self.syn.changes, *self.answer.changes)
        found = (one for one in changes if one.effect is effect)
        return next((one.element for one in found), "")


@dataclass
class Measured:
    """What the experiment of a row has found; filled while it runs."""

    traffic: list[Traffic] = field(default_factory=list)
    diagnosed: Diagnosed | None = None


def predict(row: Row, topology: Topology | None = None) -> Prediction:
    """Work out what a row is expected to come to."""
    model = topology or topologies.from_mapping(row.topology)
    path = find_path(model, SOURCE, DESTINATION)
    syn, answer = expect(path, "tcp", 4), expect(reverse(path), "tcp", 4)
    return Prediction(path, tuple(_elements(path)), syn, answer, row.control)


def _named(path: PacketPath) -> Iterator[str]:
    for one in path.traversals:
        element = one.element
        match element:
            case RouterElement(router):
                yield f"{router.name} ({router.kind})"
            case Wire(segment=segment):
                yield f"{element.name} ({segment.kind})"
            case Segment():
                yield f"{element.network}/{element.name}" if element.name else element.network
            case _:
                models = {interface.model for interface in element.node.interfaces}
                told = ", ".join(models - {nics.DEFAULT})
                yield f"{element.node.name} ({told})" if told else element.node.name


def _elements(path: PacketPath) -> Iterator[Element]:
    """Yield what is on a path and has a kind that says something of checksums."""
    for one in path.traversals:
        found = _kind(one)
        if found is None:
            continue
        name, kind, options = found
        effect = kind.effect_on(Passing("tcp", 4, options=options))
        told = {key: str(value) for key, value in options.items()}
        yield Element(name, kind.name, effect.value, kind.mechanism, told)


def _kind(here: Traversal) -> tuple[str, Kind, dict[str, bool | int | float | str]] | None:
    match here.element:
        case RouterElement(router):
            return router.name, registry.forwarder(router.kind), dict(router.options)
        case Wire(segment=segment) as wire:
            return wire.name, registry.link(segment.kind), dict(segment.options)
        case Segment() as segment:
            name = f"{segment.network}/{segment.name}" if segment.name else segment.network
            return name, registry.link(segment.kind), dict(segment.options)
        case ForwardingGuest(node) as guest:
            models = {one.model for one in node.interfaces} - {nics.DEFAULT}
            return node.name, registry.nic(models.pop()) if models else guest.kind, {}
        case GuestElement(node):
            names = {port.interface for port in (here.entry, here.exit) if port}
            (model,) = {one.model for one in node.interfaces if one.name in names}
            return (node.name, registry.nic(model), {}) if model != nics.DEFAULT else None
        case _:
            return None


def experiment_of(row: Row, measured: Measured | None = None) -> Experiment:
    """Make an experiment of a row; what it finds goes into `measured`."""
    found = measured or Measured()
    expected = predict(row)
    told = expected.words
    return Experiment(
        name=f"{PREFIX}{row.name}",
        topology=dict(row.topology),
        hypothesis=f"{row.title[:1].upper()}{row.title[1:]}: {told}.",
        body=_body(row, expected, found),
    )


def _body(row: Row, expected: Prediction, found: Measured) -> Callable[[Trial], None]:
    def measure(trial: Trial) -> None:
        if row.control is None:
            for version in (4, 6):
                with trial.arm(f"ipv{version}", expected.text) as arm:
                    traffic = check_path(
                        trial, arm, SOURCE, DESTINATION, version, with_udp=version == 4
                    )
                    more: dict[str, str] = {}
                    if version == 4:
                        if row.protocols:
                            more |= _protocols(trial, arm, row.fragments_end)
                        more |= _lease(trial, arm, expected.path) if row.dhcp else {}
                    found.traffic.append(_told(traffic, more))
        with trial.arm("diagnose", "what labctl diagnose says of it, and what mends it") as arm:
            found.diagnosed = _diagnosed(trial, arm, expected)

    measure.__doc__ = f"{row.title[:1].upper()}{row.title[1:]}."
    measure.__module__ = __name__
    return measure


def _protocols(trial: Trial, arm: Arm, fragments_end: str) -> dict[str, str]:
    """Send what leaves no sum to others, which loses nothing anywhere; return what it came to.

    A datagram without checksum has nothing to be finished (RFC 768), and one that must be cut is
    summed by the sender's kernel (__ip_append_data() leaves CHECKSUM_NONE beyond the MTU). Where
    `fragments_end` says why fragments do not pass, datagrams before and after them must arrive.
    """
    answers = {
        "udp without checksum": probes.udp(trial.lab, SOURCE, DESTINATION, summed=False),
        "udp in fragments": probes.udp(trial.lab, SOURCE, DESTINATION, times=200),
    }
    if fragments_end:
        again = probes.udp(trial.lab, SOURCE, DESTINATION, summed=False)
        answers["udp without checksum, after them"] = again
    for name, answer in answers.items():
        if fragments_end and name == "udp in fragments":
            arm.check(name, f"lost: {fragments_end}", answer.text, answer.works is not True)
        else:
            arm.check(name, "received", answer.text, answer.works)
    return {name: answer.text for name, answer in answers.items()}


def _lease(trial: Trial, arm: Arm, path: PacketPath) -> dict[str, str]:
    """Let vm1 ask vm2 for an address; where that cannot be, also with vm2 finishing its sums."""
    if lacks := dhcp.missing():
        arm.check("dhcp", "an answer", lacks, None)
        return {"dhcp": lacks}
    wanted = expect(reverse(path), "udp", 4).accepted
    answer = dhcp.lease(trial.lab, SOURCE, DESTINATION)
    works = None if answer.works is None else answer.works is wanted
    arm.check("dhcp", "a lease" if wanted else "no lease", answer.text, works)
    told = {"dhcp": answer.text}
    if not wanted:
        with trial.lab.node(DESTINATION).offload({"tx-checksumming": False}):
            answer = dhcp.lease(trial.lab, SOURCE, DESTINATION)
        arm.check("dhcp, tx off in vm2", "a lease", answer.text, answer.works)
        told["dhcp with tx off in vm2"] = answer.text
    return told


def _told(traffic: TrafficRun, more: Mapping[str, str]) -> Traffic:
    """Return what a crossing came to, for the catalogue, and `more` answers."""
    packets = []
    for wanted in (traffic.syn, traffic.syn_ack, traffic.datagram):
        steps = traffic.steps(wanted)
        if any(step.seen for step in steps):
            states = tuple((step.hop.name, step.state) for step in steps)
            packets.append(PacketWay(wanted.label, expected_of(traffic, wanted).words, states))
    answers = {"ssh": traffic.ssh, "udp": traffic.udp, "ping": traffic.ping}
    counters: dict[str, dict[str, int]] = {}
    for answer in filter(None, answers.values()):
        for node, grown in answer.errors.items():
            for name, count in grown.items():
                its = counters.setdefault(node, {})
                its[name] = its.get(name, 0) + count
    return Traffic(
        version=traffic.version,
        answers={name: answer.text for name, answer in answers.items() if answer} | dict(more),
        packets=tuple(packets),
        counters={node: grown for node, grown in counters.items() if grown},
        drop_reasons={
            node: tuple(sorted({drop.reason for drop in drops if drop.reason}))
            for node, drops in traffic.drops.items()
            if drops
        },
    )


def _diagnosed(trial: Trial, arm: Arm, expected: Prediction) -> Diagnosed:
    """Have the flow diagnosed, and check that it says what is expected."""
    control = expected.control
    port = control.port if control else 22
    flow, path = plan(trial.lab, SOURCE, DESTINATION, "tcp", port, version=4)
    breaks = expected.outcome == "breaks"
    said = diagnose(trial.lab, flow, path, proving=breaks)
    for _ in range(1, control.asked if control else 1):
        if said.verdict.finding is not Finding.HEALTHY:
            break
        said = diagnose(trial.lab, flow, path)
    verdict = said.verdict
    finding = Finding.HEALTHY
    if control:
        finding = control.finding
    elif breaks:
        finding = Finding.LOST
    arm.check(
        "finding", str(finding), verdict.sentence, verdict.finding is finding,
        evidence=verdict.evidence,
    )  # fmt: skip
    place = control.where if control else expected.place
    if place:
        fits = verdict.where.startswith(place) if control else verdict.where == place
        arm.check("place", place, verdict.where or "none", fits)
    if breaks:
        _check_remedies(arm, said)
    return _remembered(said)


def _check_remedies(arm: Arm, said: Diagnosis) -> None:
    """Check that something that should mend it does."""
    trials = said.proof.trials if said.proof else ()
    mended = [one.fix.name for one in trials if one.works and one.fix.should]
    told = any(one.works is not None for one in trials)
    arm.check(
        "remedy",
        "one that should mend it does",
        ", ".join(mended) or "none did",
        bool(mended) if told else None,
        evidence=[f"{one.fix.name}: {one.text}" for one in trials],
    )


def _remembered(said: Diagnosis) -> Diagnosed:
    verdict = said.verdict
    trials = said.proof.trials if said.proof else ()
    return Diagnosed(
        str(verdict.finding),
        verdict.sentence,
        verdict.where,
        verdict.reason,
        tuple(
            Remedy(
                one.fix.name, one.fix.how, one.fix.cost, one.works, one.text, _in_general(one.fix)
            )
            for one in trials
        ),
    )


def _in_general(fix: Fix) -> str:
    """Name what was tried in words that fit other paths, too."""
    if fix.kind:
        return f"router as {fix.kind}"
    return fix.name if fix.layer == "guest" else f"tx off at the {fix.layer}s"
