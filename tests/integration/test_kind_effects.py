"""Kinds between real links: what each does to an unfinished checksum is what it says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest
from netlab import bridge, connects, host, isolated, pings, tcp_server
from pyroute2 import IPRoute

from labctl.capture.counters import parse_counters
from labctl.capture.point import host_point
from labctl.capture.session import Capture
from labctl.capture.spawn import Handle, start_process
from labctl.kinds import registry
from labctl.kinds.base import Effect, ForwarderKind, KernelPart, Option, Passing, Tool
from labctl.lab import kernel_parts
from labctl.lab.preflight import lacking
from labctl.network import confined, features, links, programs
from labctl.routers import namespace, tun
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.host import Host
from labctl.sandbox.netns import inside
from labctl.topology import from_mapping
from labctl.topology.model import Router, RouterInterface

pytestmark = pytest.mark.integration
VM2 = {4: "10.0.2.2", 6: "fd00:2::2"}
BRIDGES = {"eth0": "net1", "eth1": "net2"}
FINISHED, LOST, KEPT = ("valid", False), ("partial", False), ("partial", True)
"""State of the field, and whether the metadata says that it is unfinished."""
BEHIND = {Effect.KEEPS: KEPT, Effect.LOSES: LOST, Effect.COMPLETES: FINISHED}
FORWARDERS = [
    "namespace", "nat", "tc-bpf", "xdp-generic", "xdp-native", "raw", "raw-vnet", "raw-zeroed",
    "raw-synthesised", "raw-sum", "raw-sum-unready", "tun", "tun-vnet", "tun-vnet-empty",
    "tc-bpf-clone", "bpf-nat", "af-xdp", "vrf",
]  # fmt: skip

HIDDEN: dict[str, Option] = {"inside": "10.0.1.2"}
OPTIONS = {"bpf-nat": HIDDEN, "bpf-nat-stale": HIDDEN, "raw-incremental": HIDDEN}


class Running:
    """A router in a namespace of the test's own."""

    def __init__(self, model: Router, directory: Path) -> None:
        self.name, self.model, self.directory = model.name, model, directory
        self.options: Mapping[str, Option] = OPTIONS.get(model.kind, {})
        self.handle: Handle | None = None

    def run(self, argv: Sequence[str]) -> object:
        raise NotImplementedError(argv)

    def set_kernel_forwarding(self, on: bool) -> None:
        namespace.set_forwarding(self.model, on)

    def kernel_forwards(self) -> bool:
        return namespace.forwarding(self.model)

    def kernel_counters(self) -> dict[str, int]:
        return parse_counters("")

    def set_outer_feature(self, feature: str, on: bool) -> None:
        for one in self.model.interfaces:
            features.change(one.peer, {feature: on})

    def start_program(self, program: str | Path, *options: str) -> None:
        self.out = self.directory / "program.out"
        names = [one.name for one in self.model.interfaces]
        words = [sys.executable, "-m", str(program), "--netns", self.name, *options, *names]
        self.handle = start_process(words, stdout=self.out, stderr=self.out.with_suffix(".err"))
        deadline = Deadline(60, "the router's program")
        while "ready" not in self.out.read_text():
            assert self.handle.poll() is None, self.out.with_suffix(".err").read_text()
            deadline.pause(0.01)

    def program_counters(self) -> dict[str, int]:
        assert self.handle
        said = len(self.out.read_text())
        self.handle.kill(signal.SIGUSR1)
        deadline = Deadline(20, "counters")
        while not (news := self.out.read_text()[said:]).endswith("\n"):
            deadline.pause(0.01)
        counted: dict[str, int] = json.loads(news)["counters"]
        return counted


@contextmanager
def forwarding(kind: ForwarderKind, directory: Path) -> Iterator[Running]:
    """vm1 - net1 - r1 - net2 - vm2, with r1 of this kind."""
    for number in (1, 2):
        addresses = (f"10.0.{number}.2/24", f"fd00:{number}::2/64")
        gateways = (f"10.0.{number}.1", f"fd00:{number}::1")
        bridge(f"net{number}")
        host(f"vm{number}", f"net{number}", *addresses, gateways=gateways)
    interfaces = tuple(
        RouterInterface(
            f"eth{number - 1}",
            f"net{number}",
            (ip_interface(f"10.0.{number}.1/24"), ip_interface(f"fd00:{number}::1/64")),
            f"02:00:00:00:01:0{number}",
            1500,
            f"r1-net{number}",
        )
        for number in (1, 2)
    )
    made = Router("r1", kind.name, interfaces, ())
    namespace.build(made, BRIDGES)
    running = Running(made, directory)
    kind.start(running)
    yield running
    kind.stop(running)


def seen(evidence: Any, kind: str = "SYN") -> dict[str, set[tuple[str, bool]]]:
    """Return by hop the states of a kind of packet."""
    return {
        hop.hop: {
            (str(one.judgement.state), str(one.judgement.metadata) == "needs_csum")
            for one in hop.observations
            if one.judgement.kind == kind
        }
        for hop in evidence.hops
    }


def need(kind: Any, options: Mapping[str, Option]) -> None:
    parts = [one for one in kind.needs(options) if isinstance(one, KernelPart)]
    tools = [one for one in kind.needs(options) if isinstance(one, Tool)]
    for tool in tools:
        if not shutil.which(tool.program):
            pytest.skip(f"this host has no {tool.program}")
    if absent := kernel_parts.missing(parts):
        pytest.skip(f"this kernel has no {absent[0].sort} {absent[0].name}")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", FORWARDERS)
def test_a_forwarder_does_what_it_says(tmp_path: Path, name: str, version: int) -> None:
    kind = registry.forwarder(name)
    need(kind, {})
    _cross(tmp_path, kind, version)


@isolated
def _cross(tmp_path: Path, kind: ForwarderKind, version: int) -> None:
    effect = kind.effect_on(Passing("tcp", version))
    hops = [host_point("before", "r1-net1"), host_point("after", "r1-net2")]
    with forwarding(kind, tmp_path), tcp_server("vm2", VM2[version]):
        assert pings("vm1", VM2[version])
        with Capture(hops, tmp_path / "c", deadline=Deadline(60, "capture")) as capture:
            accepted = connects("vm1", VM2[version])
            evidence = capture.stop(Deadline(60, "capture"))
    assert seen(evidence) == {"before": {KEPT}, "after": {BEHIND[effect]}}
    assert accepted is (effect is not Effect.LOSES)


@pytest.mark.parametrize("name", ["bpf-nat-stale", "raw-incremental"])
def test_a_sum_that_is_not_updated_rightly_is_neither_sum(tmp_path: Path, name: str) -> None:
    kind = registry.forwarder(name)
    need(kind, {})
    _translate(tmp_path, kind)


@isolated
def _translate(tmp_path: Path, kind: ForwarderKind) -> None:
    hops = [host_point("before", "r1-net1"), host_point("after", "r1-net2")]
    with forwarding(kind, tmp_path), tcp_server("vm2", VM2[4]):
        assert pings("vm1", VM2[4])
        with Capture(hops, tmp_path / "c", deadline=Deadline(60, "capture")) as capture:
            accepted = connects("vm1", VM2[4])
            evidence = capture.stop(Deadline(60, "capture"))
    assert seen(evidence) == {"before": {KEPT}, "after": {("bad", True)}}
    assert accepted, "what never met a wire is not summed"


@isolated
def test_a_tun_and_its_rules_go_with_the_program(tmp_path: Path) -> None:
    with forwarding(registry.forwarder("tun"), tmp_path) as running:
        assert pings("vm1", VM2[4])
        assert running.program_counters()["forwarded"] >= 2
        assert inside("r1", rules) == {4, 6}
        assert running.handle
        running.handle.kill()
        assert running.handle.finish(Deadline(60, "ending the program")) == 0
        assert inside("r1", rules) == set()
        assert pings("vm1", VM2[4]), "the kernel still forwards"


def rules() -> set[int]:
    """The IP versions for which there is a rule of the program's priority."""
    with IPRoute() as ip:
        return {
            version
            for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6))
            for one in ip.get_rules(family=int(family))
            if one.get_attr("FRA_PRIORITY") == tun.PRIORITY
        }


LINKS: list[tuple[str, dict[str, Option]]] = [
    ("veth", {"length": 3}),
    ("tc-mirred", {}),
    ("tc-mirred", {"csum": True}),
    ("macvlan", {}),
    ("vxlan", {}),
    ("vxlan", {"outer_sums": True}),
    ("packet-wire", {}),
    ("packet-wire", {"vnet": True}),
    ("ring-wire", {}),
    ("ring-wire", {"sums": True}),
    ("vxlan", {"underlay": "packet-wire"}),
    ("vxlan", {"underlay": "wireguard"}),
    ("geneve", {}),
    ("geneve", {"outer_sums": True}),
    ("gretap", {}),
    ("vlan", {}),
    ("bond", {}),
    ("ovs-kernel", {}),
    ("ovs-userspace", {}),
    ("ovs-userspace", {"tso": True}),
    ("testpmd", {}),
    ("testpmd", {"driver": "tap"}),
    ("socat-tap", {}),
]


@pytest.mark.parametrize(("name", "options"), LINKS, ids=str)
def test_a_link_does_what_it_says(tmp_path: Path, name: str, options: dict[str, Option]) -> None:
    need(registry.link(name), options)
    _join(tmp_path, name, options)


@isolated
def _join(tmp_path: Path, name: str, options: dict[str, Option]) -> None:
    segments = {"near": {}, "w": {"kind": name, "options": options}, "far": {}}
    plugged = [{"network": "lan", "segment": "near"}]
    made = from_mapping(
        {
            "networks": {"lan": {"segments": segments}},
            "nodes": {"vm9": {"interfaces": plugged}},
        }
    )
    assert not lacking(made)
    links.build(made)
    near, _, far = made.networks["lan"].segments
    for number, segment in ((1, near), (2, far)):
        host(f"vm{number}", segment.plan.bridge, f"10.0.1.{number}/24")
    tmp_path.chmod(0o711)
    programs.start_all(Host.create(tmp_path / "lab"), made)
    effect = registry.link(name).effect_on(Passing("tcp", 4, options=options))
    hops = [host_point("before", "vm1-port"), host_point("after", "vm2-port")]
    with tcp_server("vm2", "10.0.1.2"):
        assert pings("vm1", "10.0.1.2")
        with Capture(hops, tmp_path / "c", deadline=Deadline(60, "capture")) as capture:
            accepted = connects("vm1", "10.0.1.2")
            evidence = capture.stop(Deadline(60, "capture"))
    assert seen(evidence) == {"before": {KEPT}, "after": {BEHIND[effect]}}
    assert accepted is (effect is not Effect.LOSES)


def test_a_switch_ends_with_the_program_that_keeps_it(tmp_path: Path) -> None:
    need(registry.link("ovs-userspace"), {})
    _end(tmp_path)


@isolated
def _end(tmp_path: Path) -> None:
    segments = {"near": {}, "w": {"kind": "ovs-userspace"}, "far": {}}
    plugged = [{"network": "lan", "segment": "near"}]
    made = from_mapping(
        {
            "networks": {"lan": {"segments": segments}},
            "nodes": {"vm9": {"interfaces": plugged}},
        }
    )
    links.build(made)
    tmp_path.chmod(0o711)
    programs.start_all(Host.create(tmp_path / "lab"), made)
    noted = confined.noted(tmp_path / "lab" / programs.FOLDER / "lan-w-ovs.pid")
    assert noted
    assert children(noted.pid) == {"ovsdb-server", "ovs-vswitchd"}
    os.kill(noted.pid, signal.SIGKILL)
    deadline = Deadline(60, "the end of the switch")
    while running() & {"ovsdb-server", "ovs-vswitchd"}:
        deadline.pause(0.02)


def children(of: int) -> set[str]:
    """The names of the processes whose parent is a process."""
    return {name for name, parent in processes() if parent == of}


def running() -> set[str]:
    return {name for name, _ in processes()}


def processes() -> Iterator[tuple[str, int]]:
    """Yield the name and the parent of every process here that has not ended."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, rest = stat.read_text().split("(", 1)[1].rsplit(") ", 1)
            state, parent = rest.split()[:2]
            if state not in "ZX":
                yield name, int(parent)
