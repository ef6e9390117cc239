"""FRR in routers that are machines: it brings the routes, and the kernels forward."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from labctl import probes
from labctl.diagnosis.diagnose import diagnose
from labctl.lab.lab import Lab
from labctl.pytest_plugin import LabFactory
from labctl.sandbox.deadline import Deadline
from labctl.topology import find
from labctl.tracing.plan import plan

pytestmark = pytest.mark.integration

FAR = {"r1": ("10.0.2.0/24", "fd00:2::/64"), "r2": ("10.0.1.0/24", "fd00:1::/64")}
"""The networks that a router knows of by its neighbour alone."""


@pytest.fixture(scope="module")
def ospf(lab_factory: LabFactory) -> Iterator[Lab]:
    with lab_factory("frr-ospf.yaml") as lab:
        yield lab


def known(lab: Lab, router: str, protocol: str) -> bool:
    """Whether a router has the far networks' routes, from this protocol of FRR's."""
    words = f"ip -4 route show proto {protocol}; ip -6 route show proto {protocol}"
    said = lab.node(router).run(words).stdout
    return all(network in said for network in FAR[router])


def wait_for_routes(lab: Lab, protocol: str) -> None:
    deadline = Deadline(300, f"routes by {protocol}")
    for router in FAR:
        while not known(lab, router, protocol):
            deadline.pause(1)


def check_both_ways(lab: Lab) -> None:
    for version in (4, 6):
        assert probes.ssh(lab, "vm1", "vm2", version=version).works


def test_ospf_brings_the_routes_and_a_trace_passes_both_routers(ospf: Lab) -> None:
    wait_for_routes(ospf, "ospf")
    check_both_ways(ospf)
    flow, path = plan(ospf, "vm1", "vm2", "tcp", 22)
    found = diagnose(ospf, flow, path)
    assert found.healthy, found.verdict
    syn = next(one for one in found.trace.forward if one.kind == "SYN")
    hops = [step.hop for step in syn.steps]
    inside = ["vm1:eth0", "r1:eth0", "r1:eth1", "r2:eth1", "r2:eth0", "vm2:eth0"]
    assert [hop for hop in hops if ":" in hop] == inside
    assert {step.knowledge for step in syn.steps} == {"partial, needs_csum"}


def test_without_frr_the_routes_go_and_the_router_is_named(ospf: Lab) -> None:
    router = ospf.forwarder("r1")
    try:
        router.stop()
        assert not known(ospf, "r1", "ospf")
        assert not ospf.node("r1").run("pidof zebra ospfd", check=False).stdout.strip()
        flow, path = plan(ospf, "vm1", "vm2", "tcp", 22)
        assert diagnose(ospf, flow, path).verdict.where.startswith("router r1")
    finally:
        router.set_kind("frr")
    wait_for_routes(ospf, "ospf")


@pytest.mark.slow
def test_bgp_brings_the_routes_between_two_ases(lab_factory: LabFactory) -> None:
    topology = yaml.safe_load(find("frr-ospf").read_text())
    for router, asn, other in (("r1", 65001, 2), ("r2", 65002, 1)):
        neighbors = f"10.0.12.{other} fd00:12::{other}"
        told = {"ospf": False, "asn": asn, "neighbors": neighbors}
        topology["nodes"][router]["forwarder_options"] = told
    with lab_factory({**topology, "name": "frr-bgp"}) as lab:
        wait_for_routes(lab, "bgp")
        check_both_ways(lab)
