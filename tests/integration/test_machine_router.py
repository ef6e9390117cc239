"""Routers that are machines: guests whose kernels forward, on paths, in traces and verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from live import Place, place

from labctl import probes
from labctl.diagnosis.diagnose import diagnose
from labctl.errors import LabctlError
from labctl.lab.forwarding_node import SYSCTLS, ForwardingNode
from labctl.lab.lab import Lab
from labctl.pytest_plugin import LabFactory
from labctl.topology import find
from labctl.tracing.plan import plan

pytestmark = pytest.mark.integration

HOPS = ["vm1:eth0", "vm1-eth0", "r1-eth0", "r1:eth0", "r1:eth1", "r1-eth1", "vm2-eth0", "vm2:eth0"]


@pytest.fixture(scope="module")
def whole(lab_factory: LabFactory) -> Iterator[Lab]:
    with lab_factory("machine-router.yaml") as lab:
        yield lab


@pytest.fixture
def lab(whole: Lab) -> Iterator[Lab]:
    """The module's lab, its router forwarding again afterwards."""
    yield whole
    ForwardingNode(whole.node("r1")).set_kind("namespace")


@pytest.fixture
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        yield where


def effects(here: Place, file: Path, only: str = "*") -> dict[str, Any]:
    told = here.run("experiment", "effects", "--topology", str(file), "--only", only, "--json")
    assert told.status == 0, told
    (made,) = told.json()
    run = json.loads((Path(made["path"]) / "result.json").read_text())
    return {arm["name"]: arm for arm in run["arms"] if arm["verdict"] != "skip"}


def test_it_forwards_and_its_own_interfaces_are_hops(lab: Lab) -> None:
    assert lab.forwarder("r1").forwards()
    for version in (4, 6):
        assert probes.ssh(lab, "vm1", "vm2", version=version).works
    flow, path = plan(lab, "vm1", "vm2", "tcp", 22)
    found = diagnose(lab, flow, path)
    assert found.healthy, found.verdict
    syn = next(one for one in found.trace.forward if one.kind == "SYN")
    assert [step.hop for step in syn.steps] == HOPS
    assert {step.knowledge for step in syn.steps} == {"partial, needs_csum"}


def test_one_that_does_not_forward_is_named_with_the_reason(lab: Lab) -> None:
    lab.node("r1").run(f"echo 0 >{SYSCTLS[0]}")
    assert not lab.forwarder("r1").forwards()
    flow, path = plan(lab, "vm1", "vm2", "tcp", 22)
    verdict = diagnose(lab, flow, path).verdict
    assert verdict.where == "router r1 (eth0 to eth1)", verdict
    assert verdict.reason == "nothing forwards in r1"


@pytest.mark.parametrize("off", [["csum"], ["csum", "guest_csum"]], ids=" ".join)
def test_what_its_devices_were_not_offered_its_kernel_or_the_hosts_completes(
    here: Place, off: list[str]
) -> None:
    topology = yaml.safe_load(find("machine-router").read_text())
    gso = ["gso", "tso4", "tso6", "ecn", "ufo"]
    guest = ["guest_tso4", "guest_tso6", "guest_ecn", "guest_ufo"] if len(off) > 1 else []
    topology["nodes"]["r1"]["offload"] = {"device": dict.fromkeys([*off, *gso, *guest], "off")}
    arms = effects(here, here.write("off.yaml", yaml.safe_dump(topology)), "*/ipv4")
    assert len(arms) == 2
    assert {arm["verdict"] for arm in arms.values()} == {"pass"}, arms
    checks = arms["vm1 to vm2/ipv4"]["checks"]
    (syn,) = (one for one in checks if one["name"] == "SYN vm1 to vm2")
    begin = "r1-eth0" if "guest_csum" in off else "r1:eth1"
    assert syn["expected"].endswith(f"valid from {begin} on"), syn


def test_a_namespace_can_be_one(here: Place) -> None:
    topology = yaml.safe_load(find("machine-router").read_text())
    for node in topology["nodes"].values():
        node["kind"] = "namespace"
    arms = effects(here, here.write("namespaces.yaml", yaml.safe_dump(topology)))
    assert len(arms) == 4
    assert {arm["verdict"] for arm in arms.values()} == {"pass"}, arms


@pytest.fixture(scope="module")
def copying(lab_factory: LabFactory) -> Iterator[Lab]:
    """A lab whose router is a machine in which labctl's copying program forwards."""
    topology = yaml.safe_load(find("machine-router").read_text())
    topology["nodes"]["r1"] |= {"image": "router", "memory": 192, "forwarder": "raw"}
    with lab_factory(topology) as lab:
        yield lab


def test_a_program_that_forwards_in_it_is_named_for_the_metadata_it_loses(copying: Lab) -> None:
    router = copying.forwarder("r1")
    assert (router.kind, router.forwards()) == ("raw", True)
    flow, path = plan(copying, "vm1", "vm2", "tcp", 22)
    found = diagnose(copying, flow, path)
    assert found.verdict.where == "router r1 (eth0 to eth1)", found.verdict
    syn = next(one for one in found.trace.forward if one.kind == "SYN")
    assert [step.hop for step in syn.steps] == HOPS
    assert [step.knowledge for step in syn.steps] == ["partial, needs_csum"] * 4 + [
        "partial, no metadata"
    ] * 4
    ways = {fix.name: fix for fix in found.fixes if fix.router == "r1"}
    assert list(ways) == ["r1 as raw-vnet", "r1 as namespace"]
    assert ways["r1 as raw-vnet"].how == "forwarder: raw-vnet (router r1 in the topology)"
    assert router.counters()["forwarded"] > 0


def test_another_program_takes_over_and_one_that_was_killed_is_missed(copying: Lab) -> None:
    router = copying.forwarder("r1")
    try:
        router.set_kind("raw-vnet")
        assert probes.ssh(copying, "vm1", "vm2").works
        copying.node("r1").run("kill -9 $(pidof python3)")
        assert router.kind is None
        assert not router.forwards()
        assert router.counters() == {}
    finally:
        router.set_kind("raw")
    assert copying.node("r1").run(f"cat {SYSCTLS[0]}").stdout.strip() == "0"


def test_a_guest_without_python_is_told_as_one(lab: Lab) -> None:
    with pytest.raises(LabctlError, match="vm1 has no python3"):
        ForwardingNode(lab.node("vm1")).set_kind("raw")
    with pytest.raises(LabctlError, match="the kind nat does not run in guests"):
        ForwardingNode(lab.node("vm1")).set_kind("nat")
