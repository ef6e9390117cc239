"""What every built-in experiment does in an arm: cross the network and look at every hop.

One crossing sends SSH, and where wanted ping and a datagram, from one node to another while every
hop of the path is observed and both guests' kernels are watched. What must come of it is said in
`expectations`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from labctl.capture.session import Capture, Evidence
from labctl.experiments import probes
from labctl.experiments.evidence import PacketSelector, Step, walk
from labctl.experiments.probes import Answer
from labctl.experiments.run_context import Arm, Trial
from labctl.kinds.observers.drops import Drop
from labctl.lab.lab import Lab
from labctl.lab.router_kinds import router_kinds
from labctl.lab.watch import capture, watch_drops
from labctl.results.model import Offloads
from labctl.sandbox.deadline import Deadline
from labctl.topology import Topology
from labctl.topology.graph import PacketPath, Port, find_path
from labctl.topology.points import ObservationPoint

STOP_SECONDS = 60.0
REASONS = ("TCP_CSUM", "UDP_CSUM")


@dataclass
class TrafficRun:
    """What was found while traffic crossed the network."""

    route: PacketPath
    """Its routers are of the kinds that they were while it was crossed."""
    there: str
    """The source's address."""
    back: str
    """The destination's address."""
    source: str
    destination: str
    ping: Answer | None = None
    ssh: Answer | None = None
    """Of SSH, or of a plain TCP connection where the destination has no server for it."""
    connected_by: str = "ssh"
    """Which of the two it is: `ssh` or `tcp`."""
    udp: Answer | None = None
    drops: dict[str, tuple[Drop, ...]] = field(default_factory=dict)
    """What each node's kernel dropped for a checksum."""
    no_drops: dict[str, str] = field(default_factory=dict)
    """Why the kernel of a node could not tell; those that could are left out."""
    evidence: Evidence | None = None
    offloads: Offloads = field(default_factory=dict)
    """Those in effect, as `Lab.offloads` reads them back."""

    @property
    def path(self) -> tuple[ObservationPoint, ...]:
        """The hops from the source to the destination."""
        return self.route.points

    @property
    def version(self) -> int:
        """The IP version."""
        return ip_address(self.there).version

    @property
    def syn(self) -> PacketSelector:
        """The first packet of the SSH connection."""
        label = f"SYN {self.source} to {self.destination}"
        return PacketSelector(label, "SYN", self.there, self.back, 22)

    @property
    def syn_ack(self) -> PacketSelector:
        """Its answer."""
        label = f"SYN-ACK {self.destination} to {self.source}"
        return PacketSelector(label, "SYN-ACK", self.back, self.seen_as, 22)

    @property
    def seen_as(self) -> str:
        """The source's address as the destination sees it: on the way it may be translated."""
        last = self.steps(self.syn)[-1].seen if self.evidence else None
        return (last.judgement.packet.src if last else None) or self.there

    @property
    def datagram(self) -> PacketSelector:
        """The UDP datagram."""
        label = f"UDP {self.source} to {self.destination}"
        return PacketSelector(label, "UDP", self.there, self.back, probes.UDP_PORT)

    def steps(self, wanted: PacketSelector) -> list[Step]:
        """Return a packet's way in the order it passes the hops."""
        assert self.evidence is not None
        forward = wanted.source == self.there
        return walk(self.evidence, self.path if forward else self.path[::-1], wanted)

    def errors(self) -> dict[str, int]:
        """Return how many checksum errors each node counted during SSH and UDP."""
        total = {self.source: 0, self.destination: 0}
        for answer in (self.ssh, self.udp):
            for node, grown in (answer.errors if answer else {}).items():
                total[node] += sum(grown.values())
        return total


@contextlib.contextmanager
def _watched(trial: Trial, traffic: TrafficRun) -> Iterator[None]:
    """Watch both guests' drops for the length of a `with` block."""
    with contextlib.ExitStack() as stack:
        watches = {
            name: stack.enter_context(watch_drops(trial.lab.node(name), REASONS))
            for name in (traffic.source, traffic.destination)
        }
        yield
        traffic.drops = {name: watch.read() for name, watch in watches.items()}
        traffic.no_drops = {name: w.why_not for name, w in watches.items() if w.why_not}


def run_traffic(
    trial: Trial,
    arm: Arm,
    source: str,
    destination: str,
    version: int,
    *,
    interface: str | None = "eth0",
    with_ping: bool = True,
    with_udp: bool = True,
) -> TrafficRun:
    """Send traffic of an IP version from one node to another and gather evidence at every hop.

    Both ends use the interface of that name; None lets them use those of the shortest path. The
    capture is kept in the record. Raises `LabctlError` when the lab fails on the way; what a probe
    could not tell is in its answer.
    """
    lab = trial.lab
    arm.routers = router_kinds(lab)
    route = find_path(_as_it_is(lab, arm.routers), source, destination, interface)
    ends = (route.traversals[0].exit, route.traversals[-1].entry)
    there, back = (
        _address(lab, *one, version) for one in zip((source, destination), ends, strict=True)
    )
    traffic = TrafficRun(route, there, back, source, destination)
    traffic.offloads = arm.offloads = lab.offloads()
    with _watched(trial, traffic), capture(lab, traffic.path, trial.scratch(arm.name)) as seeing:
        if with_ping:
            traffic.ping = probes.ping(lab, source, traffic.back)
        if lab.node(destination).serves_ssh and lab.node(source).model.is_configured:
            traffic.ssh = probes.ssh(lab, source, traffic.back)
        else:
            traffic.connected_by = "tcp"
            traffic.ssh = probes.tcp(lab, source, traffic.back)
        lacking = [name for name in (source, destination) if not lab.node(name).model.scripting]
        if with_udp and lacking:
            arm.skip("udp", "to be tried", f"{lacking[0]} has neither perl nor python3")
        elif with_udp:
            traffic.udp = probes.udp(lab, source, traffic.back)
        traffic.evidence = _stop(seeing)
    arm.keep(traffic.evidence)
    # The streams' files are in the lab's memory, and all that was seen is kept by now.
    shutil.rmtree(seeing.directory, ignore_errors=True)
    if more := [f"{hop.hop}: {hop.limited}" for hop in traffic.evidence.hops if hop.limited]:
        arm.error("capture", "more came than is kept of a capture", more)
    return traffic


def _as_it_is(lab: Lab, kinds: Mapping[str, str]) -> Topology:
    """Return the topology with the kinds that its routers have now."""
    topology = lab.topology
    for name, kind in kinds.items():
        topology = topology.with_router_kind(name, kind)
    return topology


def _address(lab: Lab, node: str, port: Port | None, version: int) -> str:
    assert port is not None
    return lab.node(node).address(version, port.interface)


def _stop(seeing: Capture) -> Evidence:
    return seeing.stop(Deadline(STOP_SECONDS, "ending the capture"))


def check_answer(arm: Arm, name: str, answer: Answer | None, works: bool) -> bool:
    """Check that a probe came to what was expected of it."""
    assert answer is not None
    expected = {
        "ssh": ("works", "hangs"),
        "tcp": ("works", "hangs"),
        "ping": ("answered", "not answered"),
    }
    words = expected.get(name, ("received", "lost"))
    passed = None if answer.works is None else answer.works is works
    if name in ("ssh", "tcp") and passed and not works:
        passed = answer.hangs  # refused, or a key that is not known, is another story
    expects = words[0] if works else words[1]
    return arm.check(name, expects, answer.text, passed, evidence=answer.attempts)


def check_in_effect(arm: Arm, what: str, wanted: bool, active: bool) -> bool:
    """Check that a feature is on or off as it was read back: what was asked proves nothing."""
    words = {True: "on", False: "off"}
    return arm.check(f"in effect: {what}", words[wanted], words[active], active is wanted)


def check_no_errors(arm: Arm, traffic: TrafficRun) -> bool:
    """Check that neither guest counted a checksum error."""
    errors = traffic.errors()
    told = all(a is None or a.works is not None for a in (traffic.ssh, traffic.udp))
    observed = ", ".join(f"{node}: {count}" for node, count in errors.items())
    return arm.check(
        "checksum errors",
        "none counted at either guest",
        observed,
        not any(errors.values()) if told else None,
    )
