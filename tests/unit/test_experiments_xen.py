"""xen-offload and xen-to-virtio: what of a capture they count, and what they must not let pass."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tracing_frames import LOST, VALID, Pkt, hop

from labctl.capture.session import Evidence
from labctl.errors import GuestError
from labctl.events import silent
from labctl.experiments import Experiment, Trial, superframes
from labctl.experiments.builtin.xen_offload import gso
from labctl.experiments.builtin.xen_offload.experiment import Rows, _check_at_work, xen_offload
from labctl.experiments.builtin.xen_to_virtio.experiment import xen_to_virtio
from labctl.experiments.expectations import check_traffic
from labctl.experiments.probes import Answer
from labctl.experiments.run_context import Arm
from labctl.experiments.superframes import fixups, grown, super_frame, tally
from labctl.experiments.traffic_run import TrafficRun
from labctl.kinds.observers.drops import Drop
from labctl.packet.checksum import Checksum, Metadata, classify
from labctl.packet.virtio import VnetHeader
from labctl.results.model import Verdict
from labctl.topology import find, load
from labctl.topology.graph import PacketPath, find_path
from labctl.topology.points import outer_end

COPYING = load(find("xen-to-virtio")).with_router_kind("r1", "raw")
HERE = outer_end("guest", "vm2", "vm2-eth0", "xen1")
SMALL = Pkt(dport=5001, flags=0x18, payload=b"a" * 100)
SUPER = replace(SMALL, payload=b"a" * 3000, gso=1, gso_size=1448)
WORKS, HANGS = Answer(True, "works"), Answer(False, "hangs: vm3 counted 2 TCP checksum errors")


def arm() -> Arm:
    return Arm("a", "an arm", Path("/nowhere"), silent)


def counted(*packets: Pkt, cut: bool = False) -> Any:
    evidence = Evidence((hop(HERE.name, enumerate(packets), cut=cut),))
    return tally(evidence, HERE, "10.0.2.2", 5001)


# --- where packets pass -------------------------------------------------------------------------


def test_the_two_uplinks_are_passed_by_the_interface_that_is_asked_for() -> None:
    topology = load(find("xen-offload"))
    for interface, model in (("eth0", "virtio"), ("eth1", "e1000")):
        names = [one.name for one in find_path(topology, "vm1", "vm3", interface).points]
        inner = f"xen1:{interface}"
        assert names[2:4] == [inner, f"xen1-{interface}"]
        uplinks = {one.name: one.model for one in topology.nodes["xen1"].interfaces}
        assert uplinks[interface] == model
    names = [one.name for one in find_path(topology, "vm1", "vm2", "eth0").points]
    assert names == ["vm1:eth0", "vm1-eth0", "vm2-eth0", "vm2:eth0"]


def test_the_router_between_the_two_hosts_is_outside_of_the_xen_host() -> None:
    topology = load(find("xen-to-virtio"))
    path = find_path(topology, "vm1", "vm3", "eth0").points
    assert [one.name for one in path[2:6]] == ["xen1:eth0", "xen1-eth0", "r1-eth0", "r1:eth0"]
    assert {one.context for one in path if one.element == "r1"} == {""}
    direct = [one.name for one in find_path(topology, "vm1", "vm2", "eth0").points]
    assert not any(name.startswith("r1") for name in direct)


# --- super-frames -------------------------------------------------------------------------------


def test_super_frames_are_counted_apart_from_the_rest_of_their_transfer() -> None:
    syn = replace(SMALL, flags=0x02, payload=b"")
    ack = replace(SMALL, flags=0x10, payload=b"")
    back = replace(SUPER, src="10.0.2.2", dst="10.0.1.1", sport=5001, dport=40000)
    elsewhere = replace(SUPER, dport=22)
    seen = counted(syn, ack, SMALL, SUPER, SUPER, back, elsewhere)
    assert (seen.frames, seen.supers, seen.segments) == (3, 2, (1448,))
    assert seen.states == ("partial, needs_csum",)
    assert "2 of 3 frames" in seen.text


@pytest.mark.parametrize(
    ("packets", "cut", "some", "none"),
    [
        ((SMALL, SUPER), False, Verdict.PASS, Verdict.FAIL),
        ((SMALL, SMALL), False, Verdict.FAIL, Verdict.PASS),
        ((), False, Verdict.FAIL, Verdict.FAIL),  # nothing arrived: that shows neither
        ((SMALL,), True, Verdict.ERROR, Verdict.ERROR),
        ((SUPER,), True, Verdict.PASS, Verdict.FAIL),
        ((replace(SUPER, **LOST),), False, Verdict.FAIL, Verdict.FAIL),
        ((SUPER, replace(SUPER, **VALID)), False, Verdict.FAIL, Verdict.FAIL),
        (
            (replace(SUPER, gso=0, gso_size=0),),
            False,
            Verdict.FAIL,
            Verdict.FAIL,
        ),  # joined, of no known size
    ],
)
def test_super_frames_must_be_open_and_of_a_known_size(
    packets: tuple[Pkt, ...], cut: bool, some: Verdict, none: Verdict
) -> None:
    one = arm()
    gso._some(one, counted(*packets, cut=cut))
    gso._none(one, counted(*packets, cut=cut))
    assert [check.verdict for check in one.checks] == [some, none]


def test_the_frame_made_by_hand_is_a_super_frame_with_a_wrong_sum_and_no_note() -> None:
    def node(mac: str, address: str) -> Any:
        return SimpleNamespace(
            address=lambda _: address, interface=lambda: SimpleNamespace(mac=mac)
        )

    data = super_frame(node("52:54:00:00:00:01", "10.0.1.1"), node("52:54:00:00:00:02", "10.0.1.2"))
    found = classify(data[10:], vnet=VnetHeader.unpack(data[:10]))
    assert (found.packet.src, found.packet.dst) == ("10.0.1.1", "10.0.1.2")
    assert found.packet.header_valid
    assert (found.state, found.metadata) == (Checksum.BAD, Metadata.NONE)
    assert (found.gso, found.gso_size) == ("tcpv4", 1000)
    assert data[10:16] == bytes.fromhex("525400000002")


@dataclass
class Stats:
    """A lab whose `ethtool -S` says what it is told to."""

    text: str

    def node(self, name: str) -> Any:
        return SimpleNamespace(
            interface=lambda: SimpleNamespace(tap=f"{name}-eth0"),
            model=SimpleNamespace(host="xen1"),
            run=lambda _argv: SimpleNamespace(stdout=self.text),
        )


def test_the_fixups_of_a_guest_and_of_its_vif_are_read() -> None:
    lab: Any = Stats("NIC statistics:\n     rx_gso_checksum_fixup: 7\n     tx_zerocopy_sent: 0\n")
    assert fixups(lab, "vm1") == {"vm1:eth0": 7, "vm1-eth0": 7}


def test_a_driver_that_does_not_count_is_no_zero() -> None:
    lab: Any = Stats("NIC statistics:\n     rx_packets: 7\n")
    with pytest.raises(GuestError, match="does not count"):
        fixups(lab, "vm1")


def test_only_what_grew_is_told() -> None:
    assert grown({"a": 1, "b": 2}, {"a": 1, "b": 5}) == "b grew by 3"
    assert grown({"a": 1}, {"a": 1}) == ""


@pytest.mark.parametrize(
    ("ended", "output", "works", "text"),
    [
        (0, "0\n200000\n", True, "200000 of 200000 bytes arrived"),
        (0, "143\n200000\n", True, "200000 of 200000 bytes arrived"),
        (0, "0\n1448\n", False, "1448 of 200000 bytes arrived"),
        (0, "143\n1448\n", None, "1448 of 200000 bytes arrived until the receiver ended with 143"),
        (0, "", None, "the receiver ended with 0 and said: nothing"),
        (127, "", None, "the receiver ended with 127 and said: nothing"),
        (0, "0\nwc: oh\n", None, "the receiver ended with 0 and said: 0 wc: oh"),
    ],
)
def test_a_transfer_fails_only_where_its_connection_ended_too_early(
    ended: int, output: str, works: bool | None, text: str
) -> None:
    class Receiver:
        def wait(self, _deadline: Any) -> int:
            return ended

        def stop(self) -> None:
            self.stopped = True

    receiver: Any = Receiver()
    receiver.output, receiver.errors = output, ""
    node = SimpleNamespace(start=lambda _: receiver, run=lambda *_, **__: SimpleNamespace(ok=True))
    lab: Any = SimpleNamespace(node=lambda _: node)
    answer = superframes.bulk(lab, "vm1", "vm2", "10.0.1.2")
    assert (answer.works, answer.text) == (works, text)
    assert receiver.stopped


def test_the_receiver_tells_what_its_program_ended_with_before_the_count(tmp_path: Path) -> None:
    program = tmp_path / "nc"
    program.write_text("#!/bin/sh\nprintf 12345; exit 7\n")
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", superframes._RECEIVE], capture_output=True, text=True, env={"PATH": path}
    )
    assert (done.returncode, done.stdout.split()) == (0, ["7", "5"])


# --- tables -------------------------------------------------------------------------------------


def traffic(route: PacketPath, until: int, after: dict[str, Any], ssh: Answer) -> TrafficRun:
    """Return a crossing of a SYN, and of its answer, that changed at hop number `until`."""
    path = route.points
    first, last = path[0].element, path[-1].element
    syn = Pkt()
    answer = Pkt(src=syn.dst, dst=syn.src, sport=22, dport=40000, flags=0x12)
    seen = []
    for number, one in enumerate(path):
        there = replace(syn, **after) if number >= until else syn
        seen.append(hop(one.name, [(0, there), (1, answer)]))
    found = TrafficRun(route, syn.src, syn.dst, first, last, ssh=ssh)
    found.evidence = Evidence(tuple(seen))
    return found


def test_an_answer_stands_in_the_columns_of_the_way_there() -> None:
    path = find_path(load(find("xen-offload")), "vm1", "vm2", "eth0")
    found = traffic(path, 2, VALID, WORKS)
    assert found.evidence
    rows = Rows(("vm1", "its vif", "vm2's vif", "vm2"))
    rows.add("there", found)
    rows.add("back", found, answer=True)
    assert rows.rows == [
        ["there", "partial", "partial", "valid", "valid", "works"],
        ["back", "partial", "partial", "partial", "partial", ""],
    ]
    assert len({len(line.split("  ")[0]) for line in rows.lines}) == 1


def test_a_lost_note_is_not_told_like_an_open_sum() -> None:
    path = find_path(load(find("xen-offload")), "vm1", "vm2", "eth0")
    rows = Rows(("vm1", "its vif", "vm2's vif", "vm2"))
    rows.add("there", traffic(path, 3, LOST, HANGS))
    assert rows.rows[0][3:5] == ["partial", "partial, LOST"]


# --- a copying router, from either side ---------------------------------------------------------


def judged(source: str, destination: str, until: int, grown: int) -> dict[str, Verdict]:
    path = find_path(COPYING, source, destination, "eth0")
    errors = {destination: {"TcpInCsumErrors": grown}} if grown else {}
    found = traffic(path, until, LOST, replace(HANGS, errors=errors))
    found.no_drops = {destination: "its kernel does not trace drops"}
    one = arm()
    check_traffic(one, found)
    return {check.name: check.verdict for check in one.checks}


@pytest.mark.parametrize(("source", "destination"), [("vm1", "vm3"), ("vm3", "vm1")])
def test_a_loss_inside_the_router_is_its_fault_in_both_directions(
    source: str, destination: str
) -> None:
    inside = 6 if source == "vm1" else 4
    found = judged(source, destination, inside, grown=2)
    skipped = found.pop(f"drop reason at {destination}")
    assert skipped is Verdict.SKIP
    assert set(found.values()) == {Verdict.PASS}
    assert f"TcpInCsumErrors at {destination}" in found


@pytest.mark.parametrize("until", [3, 5, 7, 99])  # at the uplink, before r1, after it, nowhere
def test_a_loss_elsewhere_than_in_the_router_fails(until: int) -> None:
    found = judged("vm1", "vm3", until, grown=2)
    assert found["metadata lost, SYN"] is Verdict.FAIL
    assert found["SYN vm1 to vm3"] is Verdict.FAIL


def test_the_senders_kernel_does_not_speak_for_the_receivers() -> None:
    path = find_path(COPYING, "vm1", "vm3", "eth0")
    found = traffic(path, 6, LOST, HANGS)
    found.no_drops = {"vm1": "its kernel does not trace drops"}
    found.drops = {"vm1": (), "vm3": (Drop(1.0, 2048, "tcp_v4_rcv+0x1", "TCP_CSUM"),)}
    one = arm()
    check_traffic(one, found)
    verdicts = {check.name: check.verdict for check in one.checks}
    assert verdicts["drop reason at vm3"] is Verdict.PASS


def test_a_hop_that_missed_the_packet_leaves_open_where_the_metadata_was_lost() -> None:
    path = find_path(COPYING, "vm1", "vm3", "eth0")
    found = traffic(path, 6, LOST, HANGS)
    found.no_drops = {"vm3": "its kernel does not trace drops"}
    assert found.evidence
    blind = [
        hop(one.hop, [], cut=True) if one.hop == "r1:eth1" else one for one in found.evidence.hops
    ]
    found.evidence = Evidence(tuple(blind))
    one = arm()
    check_traffic(one, found)
    verdicts = {check.name: check.verdict for check in one.checks}
    assert verdicts["metadata lost, SYN"] is Verdict.ERROR
    assert verdicts["SYN vm1 to vm3"] is Verdict.ERROR


def test_a_hang_without_counted_errors_fails() -> None:
    found = judged("vm1", "vm3", 6, grown=0)
    assert found["TcpInCsumErrors at vm3"] is Verdict.FAIL


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("  Action statistics:\n  Sent 1274 bytes 9 pkt (dropped 0)\n", Verdict.PASS),
        ("  Action statistics:\n  Sent 0 bytes 0 pkt (dropped 0)\n", Verdict.FAIL),
        ("filter protocol all pref 49152 matchall\n", Verdict.ERROR),
    ],
)
def test_an_action_without_a_count_may_be_at_work_or_not(said: str, verdict: Verdict) -> None:
    node: Any = SimpleNamespace(name="vm1", run=lambda _: SimpleNamespace(stdout=said))
    one = arm()
    _check_at_work(one, node)
    assert [check.verdict for check in one.checks] == [verdict]


# --- a lab that fails on the way ----------------------------------------------------------------


class Dead:
    """A node or a router that does not answer, whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        raise GuestError(f"it died before {name}")


@pytest.mark.parametrize("one", [xen_offload, xen_to_virtio], ids=lambda one: one.name)
def test_a_lab_that_fails_in_every_arm_is_an_error_and_no_story(
    one: Experiment, tmp_path: Path
) -> None:
    parts = dict.fromkeys(("node", "router", "forwarder"), lambda _: Dead())
    lab: Any = SimpleNamespace(topology=one.load(), **parts)
    trial = Trial(lab, tmp_path, tmp_path)
    one.run(trial)
    assert len(trial.arms) == 12
    assert {arm.verdict for arm in trial.arms} == {Verdict.ERROR}
    assert trial.story == []
    assert trial.notes
