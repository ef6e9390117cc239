"""What is to be seen of a packet on a path, worked out from what the elements on it do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from labctl.kinds import registry
from labctl.kinds.base import Effect, ForwarderKind, Passing, RunningRouter
from labctl.packet.checksum import Checksum, Metadata
from labctl.topology import Topology, find, from_mapping, load
from labctl.topology.expected import (
    AS_THEY_COME,
    FINISHED,
    LOST,
    UNFINISHED,
    Ends,
    Expected,
    State,
    expect,
)
from labctl.topology.graph import PacketPath, find_path

ROUTED = load(find("router-hop"))
ROW = load(find("three-networks"))
XEN = load(find("xen-offload"))
SHORT = {UNFINISHED: "+", LOST: "-", FINISHED: "v"}


class Forwarder(ForwarderKind):
    """A forwarder that a test makes up."""

    name = "made-up"
    summary = "a test's"
    effect = Effect.KEEPS
    counters: ClassVar[dict[str, str]] = {}

    def start(self, router: RunningRouter) -> None:
        """Nothing is started here."""

    def count(self, router: RunningRouter) -> dict[str, int]:  # noqa: ARG002
        return {}


class LosesUdp(Forwarder):
    effect = Effect.LOSES

    def effect_on(self, passing: Passing) -> Effect:
        return Effect.LOSES if passing.protocol == "udp" else Effect.KEEPS


class LosesOneWay(Forwarder):
    effect = Effect.LOSES

    def effect_on(self, passing: Passing) -> Effect:
        return Effect.LOSES if (passing.entry, passing.exit) == ("eth0", "eth1") else Effect.KEEPS


class LosesIpv6(Forwarder):
    effect = Effect.LOSES

    def effect_on(self, passing: Passing) -> Effect:
        return Effect.LOSES if passing.version == 6 else Effect.KEEPS


class Completes(Forwarder):
    effect = Effect.COMPLETES


class Verifies(Forwarder):
    effect = Effect.VERIFIES


MADE_UP: dict[str, ForwarderKind] = {
    "loses-udp": LosesUdp(),
    "loses-one-way": LosesOneWay(),
    "loses-ipv6": LosesIpv6(),
    "completes": Completes(),
    "verifies": Verifies(),
}


def forwarder(name: str) -> ForwarderKind:
    return MADE_UP.get(name) or registry.forwarder(name)


def routed(*kinds: str, topology: Topology | None = None) -> Topology:
    """A topology whose routers are of these kinds, which need not be installed."""
    given = topology or (ROUTED if len(kinds) == 1 else ROW)
    routers = zip(given.routers.values(), kinds, strict=True)
    return replace(given, routers={one.name: replace(one, kind=kind) for one, kind in routers})


def expected(
    topology: Topology,
    source: str = "vm1",
    destination: str = "vm2",
    interface: str | None = None,
    protocol: str = "tcp",
    **more: Any,
) -> Expected:
    path = find_path(topology, source, destination, interface)
    return expect(path, protocol, more.pop("version", 4), forwarder=forwarder, **more)


def signs(found: Expected) -> str:
    """A sign a point: unfinished `+`, lost `-`, finished `v`, not reached `.`."""
    return "".join(SHORT[state] for state in found.states.values()) + "." * len(found.unreached)


# --- the built-in experiments -------------------------------------------------------------------


def test_on_a_bridge_the_metadata_stays_with_the_packet() -> None:
    found = expected(load(find("bridged")))
    assert (signs(found), found.changes, found.accepted) == ("++++", (), True)
    assert found.words == "partial with needs_csum at every hop"


@pytest.mark.parametrize(("kind", "there"), [("namespace", "++++++++"), ("raw-vnet", "++++++++")])
def test_a_router_that_keeps_changes_nothing(kind: str, there: str) -> None:
    assert signs(expected(routed(kind))) == there


def test_a_copying_router_loses_the_metadata_between_its_interfaces() -> None:
    found = expected(routed("raw"))
    assert (signs(found), found.accepted) == ("++++----", False)
    assert found.lost
    assert found.lost.before
    assert found.lost.after
    assert (found.lost.element, found.lost.before.name, found.lost.after.name) == (
        "r1",
        "r1:eth0",
        "r1:eth1",
    )
    assert found.words == "partial everywhere; needs_csum up to r1:eth0, none after it"
    back = expected(routed("raw"), "vm2", "vm1")
    assert back.words == "partial everywhere; needs_csum up to r1:eth1, none after it"


def test_what_the_sender_has_finished_cannot_be_lost() -> None:
    found = expected(routed("raw"), ends=Ends(finished_by={"vm1"}))
    assert (signs(found), found.lost, found.accepted) == ("vvvvvvvv", None, True)
    assert found.words == "valid, without needs_csum, at every hop"
    assert not expected(routed("raw"), ends=Ends(finished_by={"vm2"})).accepted


def test_ping_is_finished_from_the_start() -> None:
    assert expected(routed("raw"), protocol="icmp").accepted


# --- what links and NICs do ---------------------------------------------------------------------


def test_a_link_that_takes_nothing_unfinished_has_it_finished_before_it_is_seen_there() -> None:
    found = expected(load(find("bridged")), ends=Ends(completing={"vm2-eth0"}))
    assert (signs(found), found.accepted) == ("++vv", True)
    assert found.words == "partial with needs_csum as far as vm1-eth0, valid from vm2-eth0 on"


def test_what_comes_by_such_a_link_stays_as_it_is() -> None:
    assert signs(expected(load(find("bridged")), ends=Ends(completing={"vm1-eth0"}))) == "++++"


@pytest.mark.parametrize(
    ("kind", "options", "there"),
    [
        ("socat-tap", {}, "++vvvv"),
        ("testpmd", {"driver": "tap"}, "++vvvv"),
        ("testpmd", {}, "++++----"),
        ("ring-wire", {"sums": True}, "++++vvvv"),
        ("ovs-userspace", {"tso": True}, "++++++++"),
    ],
)
def test_a_wire_of_taps_has_sums_finished_before_they_are_seen_there(
    kind: str, options: dict[str, Any], there: str
) -> None:
    wire = {"kind": kind, "options": options}
    plugged = [{"network": "lan", "segment": one} for one in ("near", "far")]
    made = from_mapping(
        {
            "networks": {"lan": {"segments": {"near": {}, "wire": wire, "far": {}}}},
            "nodes": {f"vm{at}": {"interfaces": [one]} for at, one in enumerate(plugged, 1)},
        }
    )
    assert signs(expected(made)) == there


@pytest.mark.parametrize(
    ("point", "there"),
    [
        ("vm1:eth0", "vvvvvvvv"),
        ("r1-eth0", "++vvvvvv"),
        ("r1:eth0", "++++----"),  # r1 only receives by it
        ("r1:eth1", "++++----"),  # too late: nothing tells any more that it is unfinished
        ("vm2-eth0", "++++----"),
    ],
)
def test_a_link_helps_only_before_the_metadata_is_lost(point: str, there: str) -> None:
    assert signs(expected(routed("raw"), ends=Ends(completing={point}))) == there


def test_a_virtio_uplink_hands_the_metadata_on() -> None:
    assert signs(expected(XEN, "vm1", "vm3", "eth0")) == "++++++"
    assert signs(expected(XEN, "vm3", "vm1", "eth0")) == "++++++"


def test_an_uplink_of_another_model_finishes_what_leaves_and_gets_nothing_unfinished() -> None:
    there = expected(XEN, "vm1", "vm3", "eth1")
    assert signs(there) == "+++vvv"
    assert there.words == "partial with needs_csum as far as xen1:eth1, valid from xen1-eth1 on"
    back = expected(XEN, "vm3", "vm1", "eth1")
    assert signs(back) == "++vvvv"
    assert back.words == "partial with needs_csum as far as vm3-eth1, valid from xen1-eth1 on"


def test_a_guests_nic_of_another_model_does_the_same() -> None:
    lab = from_mapping(
        {
            "name": "nics",
            "networks": {"lan": None},
            "nodes": {
                "vm1": {"interfaces": [{"network": "lan", "model": "e1000"}]},
                "vm2": {"interfaces": [{"network": "lan"}]},
            },
        }
    )
    assert signs(expected(lab)) == "+vvv"
    assert signs(expected(lab, "vm2", "vm1")) == "++vv"


# --- forwarders of somebody's own ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "protocol", "version", "way", "there"),
    [
        ("loses-udp", "tcp", 4, ("vm1", "vm2"), "++++++++"),
        ("loses-udp", "udp", 4, ("vm1", "vm2"), "++++----"),
        ("loses-one-way", "tcp", 4, ("vm1", "vm2"), "++++----"),
        ("loses-one-way", "tcp", 4, ("vm2", "vm1"), "++++++++"),
        ("loses-ipv6", "udp", 4, ("vm1", "vm2"), "++++++++"),
        ("loses-ipv6", "udp", 6, ("vm1", "vm2"), "++++----"),
        ("completes", "tcp", 4, ("vm1", "vm2"), "++++vvvv"),
        ("verifies", "tcp", 4, ("vm1", "vm2"), "++++...."),
        ("verifies", "icmp", 4, ("vm1", "vm2"), "vvvvvvvv"),
    ],
)
def test_a_kind_says_itself_what_it_does_to_which_packets(
    kind: str, protocol: str, version: int, way: tuple[str, str], there: str
) -> None:
    found = expected(routed(kind), *way, protocol=protocol, version=version)
    assert signs(found) == there
    assert found.accepted is ("-" not in there and "." not in there)


def test_what_is_dropped_on_the_way_is_seen_nowhere_after() -> None:
    found = expected(routed("verifies"))
    assert found.unreached == ("r1:eth1", "r1-eth1", "vm2-eth0", "vm2:eth0")
    assert found.dropped
    assert found.dropped.element == "r1"
    assert found.dropped.before
    assert found.dropped.before.name == "r1:eth0"
    assert found.words == "partial with needs_csum as far as r1:eth0, dropped there"


# --- several elements in a row ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "there", "blamed"),
    [
        (("raw", "raw"), "++++--------", "r1"),
        (("raw", "raw-vnet"), "++++--------", "r1"),
        (("raw-vnet", "raw"), "++++++++----", "r2"),
        (("completes", "raw"), "++++vvvvvvvv", ""),
        (("raw", "completes"), "++++--------", "r1"),  # it knows of nothing to finish
        (("raw", "verifies"), "++++----....", "r1"),
        (("completes", "verifies"), "++++vvvvvvvv", ""),
    ],
)
def test_each_element_gets_what_the_one_before_has_left(
    kinds: tuple[str, str], there: str, blamed: str
) -> None:
    found = expected(routed(*kinds))
    assert signs(found) == there
    assert (found.lost.element if found.lost else "") == blamed


def test_several_changes_are_told_in_order() -> None:
    found = expected(routed("raw", "verifies"))
    assert found.words == (
        "partial everywhere; needs_csum up to r1:eth0, none after it; "
        "as far as r2:eth0, dropped there"
    )


# --- super-frames -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "there"),
    [("namespace", "++++++++"), ("raw-vnet", "++++++++"), ("raw", "++++...."),
     ("completes", "++++vvvv"), ("verifies", "++++....")],
)  # fmt: skip
def test_a_super_frame_needs_its_metadata_to_pass_at_all(kind: str, there: str) -> None:
    assert signs(expected(routed(kind), gso=True)) == there


def test_what_was_cut_is_no_super_frame_any_more() -> None:
    assert signs(expected(routed("completes", "raw"), gso=True)) == "++++vvvvvvvv"


# --- the whole ----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_every_point_of_a_path_is_told_of_once_and_in_order(protocol: str) -> None:
    for topology in (ROUTED, ROW, XEN):
        path: PacketPath = find_path(topology, "vm1", "vm2")
        found = expect(path, protocol, 4)
        assert [*found.states, *found.unreached] == [point.name for point in path.points]
        for point in path.points:
            state: State = found.state(point)
            assert state == ((Checksum.VALID, None) if protocol == "icmp" else UNFINISHED)


def test_the_states_are_those_that_a_capture_is_judged_by() -> None:
    assert UNFINISHED == (Checksum.PARTIAL, Metadata.NEEDS_CSUM)
    assert LOST == (Checksum.PARTIAL, Metadata.NONE)


def of_machine(model: str = "virtio", ends: Ends = AS_THEY_COME) -> Expected:
    """Work out the way of a SYN from vm1 to vm2 by a router that is a machine."""
    topology = load(find("machine-router"))
    r1 = topology.nodes["r1"]
    nics = tuple(replace(one, model=model) for one in r1.interfaces)
    nodes = {**topology.nodes, "r1": replace(r1, interfaces=nics)}
    return expect(find_path(replace(topology, nodes=nodes), "vm1", "vm2"), "tcp", 4, ends)


def test_a_router_that_is_a_machine_keeps_the_metadata_as_far_as_its_nics_do() -> None:
    assert of_machine().words == "partial with needs_csum at every hop"
    assert of_machine("e1000").words == (
        "partial with needs_csum as far as vm1-eth0, valid from r1-eth0 on"
    )


def test_one_whose_device_offers_no_checksums_completes_what_it_sends() -> None:
    found = of_machine(ends=Ends(completing=["r1:eth1"]))
    assert found.words == "partial with needs_csum as far as r1:eth0, valid from r1:eth1 on"
    assert found.accepted


def test_what_a_namespace_sends_is_unfinished_and_it_takes_what_is() -> None:
    topology = load(find("namespace-peer"))
    for source, destination in (("vm1", "ns1"), ("ns1", "vm1")):
        kept = expect(find_path(topology, source, destination), "udp", 6)
        assert kept.words == "partial with needs_csum at every hop"
        assert kept.accepted
        raw = topology.with_router_kind("r1", "raw")
        lost = expect(find_path(raw, source, destination), "tcp", 4)
        assert lost.lost
        assert lost.lost.element == "r1"
        assert not lost.accepted
