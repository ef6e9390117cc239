"""Which knobs are offered for lost metadata, and what of them is expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tracing_frames import PATH, Pkt

from labctl.diagnosis.facts import Facts, left_to_device
from labctl.diagnosis.remedies import Fix, _turn, candidates
from labctl.diagnosis.settings import State, put_back, read
from labctl.diagnosis.verdict import Finding, Verdict
from labctl.errors import UsageError
from labctl.guests.ethtool import Feature
from labctl.packet.frame import parse
from labctl.sandbox.process import CommandError
from labctl.topology.points import along_wire
from labctl.tracing.flow import Flow, receive_command, send_command

LOST = Verdict(Finding.LOST, "", "router r1 (eth0 to eth1)")
FACTS = Facts(kinds={"r1": "raw"})


def expected(fixes: tuple[Fix, ...]) -> dict[str, bool]:
    return {fix.name: fix.should for fix in fixes}


def test_one_end_alone_is_not_expected_to_mend_it() -> None:
    told = expected(candidates(PATH, LOST, FACTS))
    assert told["tx off in vm1 and vm2"]
    assert not told["tx off in vm1"]
    assert not told["tx off in vm2"]
    assert list(told.values()) == sorted(told.values(), reverse=True), "the promising ones first"


def test_the_other_end_is_enough_where_one_end_sums_already() -> None:
    told = expected(candidates(PATH, LOST, replace(FACTS, finishing=("vm1",))))
    assert told["tx off in vm2"]
    assert "tx off in vm1" not in told
    assert "tx off in vm1 and vm2" not in told


XEN = replace(FACTS, nics={"vm1": "xen", "vm2": "xen"})


def test_a_xen_guest_is_offered_what_its_driver_allows() -> None:
    told = {fix.name: fix for fix in candidates(PATH, LOST, XEN) if fix.layer == "guest"}
    assert list(told) == [
        "csum action in vm1 and vm2", "csum action in vm1", "csum action in vm2",
    ]  # fmt: skip
    both = told["csum action in vm1 and vm2"]
    assert both.should
    assert "tx off does nothing for IPv4 here" in both.cost
    assert both.how.startswith(
        "vm1: ethtool -K eth0 tso off gso off; tc qdisc add dev eth0 clsact; tc filter add"
    )


def test_a_fix_on_a_link_of_the_labs_is_told_by_a_command_that_reaches_it() -> None:
    told = {fix.layer: fix.how for fix in candidates(PATH, LOST, FACTS)}
    assert told["tap"] == (
        "labctl exec -- ethtool -K vm1-eth0 tx off; labctl exec -- ethtool -K vm2-eth0 tx off"
    )
    assert told["router-side veth"].startswith("labctl exec r1 -- ethtool -K eth0 tx off; ")
    dom0 = [replace(hop, context="xen1") if hop.at_bridge else hop for hop in PATH]
    told = {fix.layer: fix.how for fix in candidates(dom0, LOST, FACTS)}
    assert told["tap"].startswith("labctl exec xen1 -- ethtool -K vm1-eth0 tx off; ")


def test_over_ipv6_a_xen_guest_is_offered_tx_off_too() -> None:
    told = expected(candidates(PATH, LOST, XEN, 6))
    assert told["csum action in vm1 and vm2"]
    assert told["tx off in vm1 and vm2"]
    assert not told["tx off in vm1"]


def test_ends_with_other_nics_are_turned_each_in_its_way() -> None:
    mixed = replace(FACTS, nics={"vm1": "xen", "vm2": "virtio"})
    told = expected(candidates(PATH, LOST, mixed))
    assert told["csum action in vm1 and tx off in vm2"]
    assert not told["csum action in vm1"]
    assert not told["tx off in vm2"]


def test_what_a_driver_leaves_to_its_device_is_told_for_each_ip_version() -> None:
    on, off = Feature(True, True, True), Feature(False, False, False)
    netfront = {"tx-checksumming": on, "tx-checksum-ipv4": on, "tx-checksum-ipv6": off}
    assert left_to_device(netfront, 4)
    assert not left_to_device(netfront, 6)
    assert left_to_device({"tx-checksumming": on, "tx-checksum-ip-generic": on}, 6)
    assert not left_to_device({"tx-checksumming": off}, 4)


class XenGuest:
    """A PV guest as a proof sees it: its features, and whether it has the qdisc of the action."""

    def __init__(self) -> None:
        self.on = {"tx-checksumming": True, "generic-segmentation-offload": True}
        self.qdisc = False

    def interface(self, _name: str) -> Any:
        return self.model.interfaces[0]

    @property
    def model(self) -> Any:
        return SimpleNamespace(interfaces=[SimpleNamespace(name="eth0", model="xen")])

    def features(self, _interface: str) -> dict[str, Feature]:
        return {name: Feature(on, False, on) for name, on in self.on.items()}

    def set_features(self, wanted: Mapping[str, bool], _interface: str) -> None:
        self.on.update({name: on for name, on in wanted.items() if name in self.on})

    def restore_features(self, before: Mapping[str, Feature], _interface: str) -> None:
        self.on = {name: one.active for name, one in before.items()}

    def run(self, command: str) -> Any:
        if "qdisc show" in command:
            return SimpleNamespace(stdout="qdisc clsact ffff: parent ffff:fff1" * self.qdisc)
        if "qdisc" in command:
            if self.qdisc is ("add" in command):
                raise CommandError(f"`{command}` exited with 2: Exclusivity flag on")
            self.qdisc = "add" in command
        return SimpleNamespace(stdout="")


def xen_lab() -> Any:
    guests = {"vm1": XenGuest(), "vm2": XenGuest()}
    return SimpleNamespace(guests=guests, node=guests.__getitem__)


def test_the_csum_action_is_turned_and_put_back_with_the_features() -> None:
    lab, ends = xen_lab(), (PATH[0], PATH[-1])
    before = read(lab, ends)
    fix = next(one for one in candidates(PATH, LOST, XEN) if one.layer == "guest")
    _turn(lab, fix, 4)
    assert [(one.qdisc, *one.on.values()) for one in lab.guests.values()] == [
        (True, True, False)
    ] * 2
    put_back(lab, before, ends)
    assert [(one.qdisc, *one.on.values()) for one in lab.guests.values()] == [
        (False, True, True)
    ] * 2


def test_a_qdisc_of_the_guests_own_is_left_alone() -> None:
    lab, ends = xen_lab(), (PATH[0], PATH[-1])
    lab.guests["vm2"].qdisc = True
    before = read(lab, ends)
    fix = next(one for one in candidates(PATH, LOST, XEN) if one.layer == "guest")
    with pytest.raises(CommandError):
        _turn(lab, fix, 4)
    put_back(lab, before, ends)
    assert [one.qdisc for one in lab.guests.values()] == [False, True]


def test_after_the_loss_nothing_can_be_finished() -> None:
    told = expected(candidates(PATH, LOST, FACTS))
    assert told["tx off at r1's bridge-side veths r1-eth0 and r1-eth1"]
    assert not told["tx off at r1's own veths r1:eth0 and r1:eth1"]
    assert not told["tx off at the TAPs vm1-eth0 and vm2-eth0"]


def test_a_router_is_offered_other_kinds_only_where_they_differ() -> None:
    kinds = [k.kind for k in candidates(PATH, LOST, FACTS) if k.kind]
    assert kinds == ["raw-vnet", "namespace"]
    kernel = replace(FACTS, kinds={"r1": "namespace"})
    assert not [k for k in candidates(PATH, LOST, kernel) if k.kind]


def test_every_knob_says_how_and_what_it_costs() -> None:
    for fix in candidates(PATH, LOST, FACTS):
        assert fix.how
        assert fix.cost
        assert set(fix.to_json()) == {"name", "layer", "how", "cost", "should_mend"}


def test_a_state_names_what_differs() -> None:
    on, off = Feature(True, False, True), Feature(False, False, False)
    before = State({"vm1/eth0": {"tx": on}}, {}, {"r1": "raw"})
    after = State({"vm1/eth0": {"tx": off}}, {}, {"r1": "namespace"})
    assert before.differing(before) == []
    assert before.differing(after) == ["r1 kind", "vm1/eth0 tx"]
    assert before.differing(State()) == ["r1 kind", "vm1/eth0 tx"], "gone is different too"
    assert before.count == 2
    tidy, left = State(clsact={"vm1/eth0": False}), State(clsact={"vm1/eth0": True})
    assert tidy.differing(left) == ["vm1/eth0 clsact"]


FLOW = Flow("tcp", 22, 4, "10.0.1.1", "10.0.2.2")


def test_a_flow_tells_its_packets_from_others() -> None:
    syn = Pkt()
    mine = parse(syn.frame())
    assert FLOW.forth(mine)
    for other in ({"dport": 80}, {"number": 17}, {"src": "10.0.1.9"}, {"dst": "10.0.2.9"}):
        assert not FLOW.forth(parse(replace(syn, **other).frame()))
    answer = replace(syn, src="10.0.2.2", dst="10.0.1.1", sport=22, dport=40000)
    returning = FLOW.returning([])
    assert returning(parse(answer.frame()))
    assert not returning(mine)
    assert not returning(parse(replace(answer, sport=23).frame()))


@pytest.mark.parametrize("port", [None, 0, -1, 65536])
def test_what_is_no_port_is_refused(port: int | None) -> None:
    with pytest.raises(UsageError, match="not a TCP port"):
        Flow("tcp", port, 4, "10.0.1.1", "10.0.2.2")


def test_commands_for_the_guest_quote_what_they_are_given() -> None:
    odd = Flow("udp", 4007, 6, "", "fd00::1; reboot")
    for command in (send_command(odd, 2, 1.5), receive_command(odd)):
        assert "; reboot" not in command.replace("'fd00::1; reboot'", "")
    echo = send_command(Flow("icmp", None, 4, "", "10.0.2.2; reboot"), 1, 1)
    assert "'10.0.2.2; reboot'" in echo


def test_the_ends_of_a_wire_that_loses_the_metadata_are_offered() -> None:
    links = [along_wire("lan/w", f"lan-w-{end}") for end in "apqb"]
    path = (PATH[0], PATH[1], *links, PATH[-2], PATH[-1])
    lost = replace(LOST, where="lan/w (lan-w-p to lan-w-q)")
    told = {fix.name: fix for fix in candidates(path, lost, Facts())}
    fix = told["tx off at the ends of the wire lan-w-a and lan-w-b"]
    assert fix.should
    assert fix.how == "; ".join(f"labctl exec -- ethtool -K lan-w-{end} tx off" for end in "ab")
    assert not expected(candidates(path, LOST, FACTS))[fix.name]


def test_of_a_router_that_nobody_sees_into_only_its_outer_ends_are_turned() -> None:
    path = tuple(hop for hop in PATH if not hop.in_router)
    told = {fix.name: fix for fix in candidates(path, LOST, FACTS)}
    assert any(fix.layer == "router" and fix.should for fix in told.values())
    assert not any(fix.layer == "router-side veth" for fix in told.values())
