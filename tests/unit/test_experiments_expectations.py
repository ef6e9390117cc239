"""What must come of a crossing follows from the effects on its path, and a wrong one fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tracing_frames import LOST, VALID, Pkt, hop

from labctl.capture.session import Evidence
from labctl.events import silent
from labctl.experiments.expectations import check_traffic, expected_of, in_effect
from labctl.experiments.probes import UDP_PORT, Answer
from labctl.experiments.run_context import Arm
from labctl.experiments.traffic_run import TrafficRun
from labctl.kinds.base import Effect, Passing
from labctl.kinds.forwarders.raw_vnet import RawVnet
from labctl.kinds.links.bridge import Bridge
from labctl.kinds.observers.drops import Drop
from labctl.results.model import Verdict
from labctl.topology import find, load
from labctl.topology.expected import Ends
from labctl.topology.graph import find_path

KEPT, GONE, DONE, STOPPED = "++++++++", "++++----", "++++vvvv", "++++...."
WORKS, RECEIVED = Answer(True, "works"), Answer(True, "received")
TCP_ERRORS = {"vm2": {"TcpInCsumErrors": 2}}
UDP_ERRORS = {"vm2": {"UdpInCsumErrors": 1}}
HANGS = Answer(False, "hangs: vm2 counted 2 TCP checksum errors", TCP_ERRORS)
UDP_LOST = Answer(False, "lost: vm2 counted 1 UdpInCsumErrors", UDP_ERRORS)
NO_ANSWER = Answer(None, "no answer and no cause seen in 90 s")
CHANGES: dict[str, dict[str, Any]] = {"+": {}, "-": LOST, "v": VALID}


def traffic(
    syn: str, syn_ack: str = "", udp: str = "", *, kind: str = "raw-vnet", blind: str = ""
) -> TrafficRun:
    """A crossing of r1 in which packets were seen so: a sign a hop, in the packet's own order."""
    topology = load(find("router-hop")).with_router_kind("r1", kind)
    route = find_path(topology, "vm1", "vm2")
    there, back = "10.0.1.1", "10.0.2.2"
    first = Pkt(src=there, dst=back)
    sent = [
        (syn, first, route.points),
        (syn_ack, Pkt(src=back, dst=there, sport=22, dport=40000, flags=0x12), route.points[::-1]),
        (udp, Pkt(src=there, dst=back, number=17, dport=UDP_PORT), route.points),
    ]
    seen: dict[str, list[tuple[int, Pkt]]] = {point.name: [] for point in route.points}
    for number, (signs, packet, points) in enumerate(sent):
        for sign, point in zip(signs, points, strict=False):
            if sign != ".":
                seen[point.name].append((number, replace(packet, **CHANGES[sign])))
    hops = (hop(name, packets, cut=name == blind) for name, packets in seen.items())
    found = TrafficRun(route, there, back, "vm1", "vm2", ssh=WORKS, udp=RECEIVED)
    found.evidence = Evidence(tuple(hops))
    found.drops = {"vm2": ()}
    return found


def checked(found: TrafficRun, ends: Ends | None = None) -> dict[str, Verdict]:
    arm = Arm("a", "an arm", Path("/nowhere"), silent)
    check_traffic(arm, found, ends or Ends())
    return {check.name: check.verdict for check in arm.checks}


def wrong(found: TrafficRun, ends: Ends | None = None) -> set[str]:
    return {name for name, one in checked(found, ends).items() if one is not Verdict.PASS}


def hanging(found: TrafficRun) -> TrafficRun:
    """What raw brings about: SSH hangs, UDP is lost, and the receiver's kernel says why."""
    found.ssh, found.udp = HANGS, UDP_LOST
    found.drops = {"vm2": (Drop(1.0, 2048, "tcp_v4_rcv+0x1", "TCP_CSUM"),)}
    return found


# --- right effects ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["namespace", "raw-vnet"])
def test_a_kind_that_keeps_is_right_where_the_metadata_is_everywhere(kind: str) -> None:
    found = checked(traffic(KEPT, KEPT, KEPT, kind=kind))
    assert set(found) == {
        "ssh",
        "udp",
        "SYN vm1 to vm2",
        "SYN-ACK vm2 to vm1",
        "UDP vm1 to vm2",
        "checksum errors",
    }
    assert set(found.values()) == {Verdict.PASS}


def test_a_kind_that_loses_is_right_where_that_router_is_the_culprit() -> None:
    found = checked(hanging(traffic(GONE, "", GONE, kind="raw")))
    assert set(found) == {
        "ssh",
        "udp",
        "SYN vm1 to vm2",
        "metadata lost, SYN",
        "UDP vm1 to vm2",
        "metadata lost, UDP",
        "TcpInCsumErrors at vm2",
        "drop reason at vm2",
    }
    assert set(found.values()) == {Verdict.PASS}


def test_a_link_that_loses_is_named_as_the_packets_packet_trace_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Bridge, "effect", Effect.LOSES)
    found = checked(hanging(traffic("++------", "", "++------", kind="namespace")))
    assert found["metadata lost, SYN"] is Verdict.PASS
    assert set(found.values()) == {Verdict.PASS}


def test_sums_that_the_guests_have_finished_pass_any_kind() -> None:
    done = "vvvvvvvv"
    both = Ends(finished_by=("vm1", "vm2"))
    assert wrong(traffic(done, done, done, kind="raw"), both) == set()
    assert "SYN vm1 to vm2" in wrong(traffic(KEPT, KEPT, KEPT, kind="raw-vnet"), both)


def test_where_only_the_answers_are_lost_the_client_is_the_one_to_count_them() -> None:
    found = traffic("vvvvvvvv", GONE, "vvvvvvvv", kind="raw")
    found.ssh = replace(HANGS, errors={"vm1": {"TcpInCsumErrors": 2}})
    found.no_drops = {"vm1": "its kernel does not trace drops"}
    told = checked(found, Ends(finished_by=("vm1",)))
    assert told["TcpInCsumErrors at vm1"] is Verdict.PASS
    assert told["metadata lost, SYN-ACK"] is Verdict.PASS
    assert told.pop("drop reason at vm1") is Verdict.SKIP
    assert set(told.values()) == {Verdict.PASS}


# --- wrong effects ------------------------------------------------------------------------------


@pytest.mark.parametrize("claimed", [Effect.LOSES, Effect.COMPLETES, Effect.VERIFIES])
def test_a_kind_that_keeps_and_says_otherwise_fails(
    claimed: Effect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RawVnet, "effect", claimed)
    assert "SYN vm1 to vm2" in wrong(traffic(KEPT, KEPT, KEPT)) or claimed is Effect.VERIFIES
    assert len(wrong(traffic(KEPT, KEPT, KEPT))) >= 2


@pytest.mark.parametrize("claimed", [Effect.KEEPS, Effect.COMPLETES, Effect.VERIFIES])
def test_a_kind_that_loses_and_says_otherwise_fails(
    claimed: Effect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RawVnet, "effect", claimed)
    assert len(wrong(hanging(traffic(GONE, "", GONE)))) >= 2


@pytest.mark.parametrize("where", ["++++++--", "++------", "--------"])
def test_a_loss_elsewhere_than_its_effect_says_fails(where: str) -> None:
    assert "metadata lost, SYN" in wrong(hanging(traffic(where, "", GONE, kind="raw")))


def test_a_hop_that_missed_the_packet_leaves_it_open() -> None:
    told = checked(hanging(traffic("++++.---", "", GONE, kind="raw", blind="r1:eth1")))
    assert told["SYN vm1 to vm2"] is Verdict.ERROR
    assert told["metadata lost, SYN"] is Verdict.ERROR


# --- effects that hang on the packet ------------------------------------------------------------


def loses_udp(_self: RawVnet, passing: Passing) -> Effect:
    return Effect.LOSES if passing.protocol == "udp" else Effect.KEEPS


def test_a_kind_that_loses_udp_only_is_held_to_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RawVnet, "effect_on", loses_udp)
    found = traffic(KEPT, KEPT, GONE)
    found.udp = UDP_LOST
    found.drops = {"vm2": (Drop(1.0, 2048, "udp_queue_rcv_skb+0x1", "UDP_CSUM"),)}
    told = checked(found)
    assert {"metadata lost, UDP", "UdpInCsumErrors at vm2", "drop reason at vm2"} <= set(told)
    assert "metadata lost, SYN" not in told
    assert set(told.values()) == {Verdict.PASS}
    assert wrong(traffic(KEPT, KEPT, KEPT)) == {
        "udp",
        "UDP vm1 to vm2",
        "metadata lost, UDP",
        "UdpInCsumErrors at vm2",
        "drop reason at vm2",
    }
    assert {"ssh", "SYN vm1 to vm2"} <= wrong(hanging(traffic(GONE, "", GONE)))


def test_a_kind_that_completes_shows_valid_sums_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RawVnet, "effect", Effect.COMPLETES)
    assert wrong(traffic(DONE, DONE, DONE)) == set()


def test_what_a_kind_drops_is_told_by_the_captures_where_no_kernel_counts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RawVnet, "effect", Effect.VERIFIES)
    found = traffic(STOPPED, "", STOPPED)
    found.ssh = found.udp = NO_ANSWER
    told = checked(found)
    assert {"ssh", "udp", "dropped, SYN", "dropped, UDP"} <= set(told)
    assert set(told.values()) == {Verdict.PASS}


@pytest.mark.parametrize(
    ("syn", "blind", "verdict"),
    [
        ("+++++...", "", Verdict.FAIL),  # it got further
        ("+++.....", "", Verdict.FAIL),  # it did not get that far
        (STOPPED, "vm2:eth0", Verdict.ERROR),  # who knows
    ],
)
def test_a_drop_elsewhere_is_none_of_the_kinds(
    syn: str, blind: str, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RawVnet, "effect", Effect.VERIFIES)
    found = traffic(syn, "", STOPPED, blind=blind)
    found.ssh = found.udp = NO_ANSWER
    told = checked(found)
    assert told["dropped, SYN"] is verdict
    assert told["ssh"] is verdict


# --- the ends as they are -----------------------------------------------------------------------

ON, OFF = {"tx-checksum-ip-generic": True}, {"tx-checksum-ip-generic": False}


def test_the_ends_are_taken_from_what_was_read_back() -> None:
    found = traffic(KEPT, KEPT, KEPT)
    found.offloads = {
        "vm1/eth0": {"guest": OFF, "tap": ON, "device": {}},
        "vm2/eth0": {"guest": ON, "tap": {}, "device": {}},
        "vm9/eth0": {"guest": OFF, "tap": OFF, "device": {}},
    }
    ends = in_effect(found)
    assert (list(ends.finished_by), list(ends.completing)) == (["vm1"], ["vm2-eth0"])


def test_netfront_may_let_go_of_one_ip_version_only() -> None:
    found = traffic(KEPT, KEPT, KEPT)
    features = {"tx-checksum-ipv4": True, "tx-checksum-ipv6": False}
    found.offloads = {"vm1/eth0": {"guest": features, "tap": features, "device": {}}}
    assert list(in_effect(found).finished_by) == []
    found.there = "fd00:1::1"
    assert list(in_effect(found).finished_by) == ["vm1"]


def test_what_was_not_read_back_is_taken_as_it_comes() -> None:
    ends = in_effect(traffic(KEPT, KEPT, KEPT))
    assert (list(ends.finished_by), list(ends.completing)) == ([], [])


def test_an_answer_is_expected_the_other_way_round() -> None:
    found = traffic(GONE, kind="raw")
    lost = expected_of(found, found.syn_ack).lost
    assert lost
    assert lost.before
    assert lost.before.name == "r1:eth1"
