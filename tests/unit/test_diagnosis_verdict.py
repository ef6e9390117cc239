"""What is concluded from hand-made traces: every verdict, and what must not fool it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tracing_frames import LOST, PATH, VALID, Pkt, along, hop

from labctl.capture.session import Evidence
from labctl.diagnosis.facts import Facts, listens
from labctl.diagnosis.verdict import Finding, conclude
from labctl.packet.checksum import Checksum, Metadata
from labctl.tracing.drop_events import GuestDrop
from labctl.tracing.flow import Flow
from labctl.tracing.follow import clocks, follow
from labctl.tracing.icmp_errors import Complaint, complaints
from labctl.tracing.result import Trace

FLOW = Flow("tcp", 22, 4, "10.0.1.1", "10.0.2.2")
SYN = Pkt()
SYN_ACK = Pkt(
    src="10.0.2.2", dst="10.0.1.1", sport=22, dport=40000, flags=0x12, seq=500, ack=101, ip_id=0
)
RST = replace(SYN_ACK, flags=0x14, seq=0, **VALID)
CONNECTED = ("1 connected", "1 heard 20", "done")
TIMED_OUT = ("1 error 110 Connection timed out", "done")
REFUSED = ("1 error 111 Connection refused", "done")
FACTS = Facts(listening=True, route="10.0.2.2 via 10.0.1.254 dev eth0", forwards={"r1": True})
Way = Sequence[Pkt | None]


def back(packet: Pkt, **after_router: Any) -> list[Pkt]:
    return along(packet, **after_router)[::-1]


def trace(
    *ways: Way,
    said: Sequence[str] = CONNECTED,
    cut: Sequence[str] = (),
    drops: Sequence[GuestDrop] = (),
    flow: Flow = FLOW,
    mtu: int = 1500,
    **more: Any,
) -> Trace:
    """Build the trace of packets given at every hop of the way, one a millisecond."""
    hops = []
    for number, place in enumerate(PATH):
        seen = []
        for index, way in enumerate(ways):
            packet = way[number]
            if packet is not None:
                late = number if packet.src == "10.0.1.1" else len(PATH) - number
                seen.append((index * 1000 + late * 10, packet))
        hops.append(hop(place.name, seen, cut=place.name in cut, mtu=1500 if number < 4 else mtu))
    evidence = Evidence(tuple(hops))
    known = clocks(evidence, PATH)
    there = follow(evidence, PATH, flow.forth, known=known, drops=drops)
    answers = follow(evidence, PATH[::-1], flow.returning(there), known=known, drops=drops)
    return Trace(
        "lab",
        "vm1",
        "vm2",
        flow,
        PATH,
        evidence,
        tuple(there),
        tuple(answers),
        tuple(said),
        partial=bool(cut),
        **more,
    )


def test_packets_that_stay_partial_with_their_metadata_are_healthy() -> None:
    verdict = conclude(trace(along(SYN), back(SYN_ACK)), FACTS)
    assert verdict.finding is Finding.HEALTHY
    assert "SYN 10.0.1.1 to 10.0.2.2: partial, needs_csum at 8 hops" in verdict.evidence


def test_lost_metadata_names_the_router() -> None:
    found = trace(along(SYN, **LOST), said=TIMED_OUT, errors={"vm2": {"TcpInCsumErrors": 3}})
    verdict = conclude(found, FACTS)
    assert verdict.finding is Finding.LOST
    assert verdict.where == "router r1 (eth0 to eth1)"
    assert any("TcpInCsumErrors grew by 3" in line for line in verdict.evidence)
    assert verdict.sentence.endswith("and vm2 drops the packet.")


def test_a_one_sided_fix_is_seen_through() -> None:
    syn = replace(SYN, **VALID)
    verdict = conclude(trace(along(syn), back(SYN_ACK, **LOST), said=TIMED_OUT), FACTS)
    assert verdict.finding is Finding.LOST
    assert "on the way back at router r1 (eth1 to eth0)" in verdict.sentence
    assert "vm1 drops the packet" in verdict.sentence


def test_a_closed_port_is_no_checksum_problem() -> None:
    closed = replace(FACTS, listening=False)
    verdict = conclude(trace(along(SYN), back(RST), said=REFUSED), closed)
    assert (verdict.finding, verdict.reason) == (Finding.OTHER, "closed port")
    assert any("summed in software" in line for line in verdict.evidence)


def test_a_closed_port_behind_lost_metadata_is_lost_metadata() -> None:
    verdict = conclude(trace(along(SYN, **LOST), said=TIMED_OUT), replace(FACTS, listening=False))
    assert verdict.finding is Finding.LOST


def test_a_reset_from_the_middle_blames_who_sent_it() -> None:
    stopped: Way = [*along(SYN)[:4], *[None] * 4]
    reset: Way = [*[replace(RST, ttl=64)] * 4, *[None] * 4]
    verdict = conclude(trace(stopped, reset, said=REFUSED), FACTS)
    assert (verdict.finding, verdict.where, verdict.reason) == (Finding.OTHER, "r1", "refused")


def test_a_merged_frame_does_not_fool_it() -> None:
    data = replace(SYN_ACK, flags=0x18, seq=501, payload=b"SSH-2.0-" * 200, **VALID)
    merged = replace(data, state=Checksum.PARTIAL, meta=Metadata.DATA_VALID, gso=1, gso_size=800)
    way = [replace(merged, ttl=63), *back(data)[1:]]
    verdict = conclude(trace(along(SYN), back(SYN_ACK), way), FACTS)
    assert verdict.finding is Finding.HEALTHY


def test_corruption_is_told_apart_from_lost_metadata() -> None:
    bad = {"state": Checksum.BAD, "meta": Metadata.NONE}
    verdict = conclude(trace(along(replace(SYN, **VALID), **bad), said=TIMED_OUT), FACTS)
    assert verdict.finding is Finding.CORRUPTED
    assert verdict.where == "router r1 (eth0 to eth1)"


def stopped_at(count: int, packet: Pkt = SYN, **more: Any) -> Trace:
    way: Way = [*along(packet)[:count], *[None] * (len(PATH) - count)]
    return trace(way, said=TIMED_OUT, **more)


@pytest.mark.parametrize(
    ("found", "facts", "finding", "words"),
    [
        (stopped_at(4), {"forwards": {"r1": False}}, Finding.OTHER, "nothing forwards in r1"),
        (
            stopped_at(4, forwarded={"r1": {"received": 1, "no_route": 1}}),
            {},
            Finding.OTHER,
            "there is no route",
        ),
        (
            stopped_at(4, replace(SYN, payload=b"x" * 1440), mtu=1400),
            {},
            Finding.OTHER,
            "longer than the MTU of 1400 bytes at r1:eth1",
        ),
        (
            stopped_at(4, complaints=(Complaint("mtu", "x", "10.0.1.254", "vm1:eth0", 1300),)),
            {},
            Finding.OTHER,
            "longer than the MTU of 1300 bytes",
        ),
        (
            stopped_at(4, complaints=(Complaint("prohibited", "no", "10.0.1.254", "vm1:eth0"),)),
            {},
            Finding.OTHER,
            "10.0.1.254 says: no",
        ),
        (stopped_at(2), {"bridge_netfilter": True}, Finding.OTHER, "bridge-netfilter"),
        (stopped_at(2), {"down": ("r1-eth0",)}, Finding.OTHER, "r1-eth0 is down"),
        (stopped_at(4), {"bridge_netfilter": True}, Finding.DROPPED, "the reason is not told"),
        (stopped_at(2), {}, Finding.DROPPED, "at the bridge between vm1-eth0 and r1-eth0"),
    ],
)
def test_a_sound_packet_that_ends_is_explained(
    found: Trace, facts: dict[str, Any], finding: Finding, words: str
) -> None:
    verdict = conclude(found, replace(FACTS, **facts))
    assert verdict.finding is finding
    assert words in verdict.sentence


def test_the_kernels_own_reason_is_given() -> None:
    seen = trace(along(SYN)).evidence["vm2:eth0"].observations[0]
    drop = GuestDrop("vm2", seen.time_ns + 1000, 0x0800, "NETFILTER_DROP")
    verdict = conclude(trace(along(SYN), said=TIMED_OUT, drops=[drop]), FACTS)
    assert verdict.finding is Finding.DROPPED
    assert verdict.sentence == "Dropped at vm2 because NETFILTER_DROP."


def test_silence_after_all_arrived_is_not_called_healthy() -> None:
    verdict = conclude(trace(along(SYN), said=TIMED_OUT), FACTS)
    assert verdict.finding is Finding.UNKNOWN
    verdict = conclude(trace(along(SYN), said=TIMED_OUT), replace(FACTS, route_back=False))
    assert (verdict.finding, verdict.where, verdict.reason) == (Finding.OTHER, "vm2", "no route")


@pytest.mark.parametrize("drops", [False, True])
def test_an_answer_that_came_too_late_is_told_as_that(drops: bool) -> None:
    ways = [along(SYN), back(SYN_ACK), along(replace(SYN, flags=4, seq=101, **VALID))]
    seen = trace(*ways).evidence["vm1:eth0"].observations[1]
    told = [GuestDrop("vm1", seen.time_ns + 1000, 0x0800, "NO_SOCKET")] if drops else []
    verdict = conclude(trace(*ways, said=TIMED_OUT, drops=told), FACTS)
    assert (verdict.finding, verdict.reason) == (Finding.UNKNOWN, "late answer")
    assert "after vm1 had given up" in verdict.sentence
    verdict = conclude(trace(*ways, said=CONNECTED, drops=told), FACTS)
    assert verdict.finding is (Finding.DROPPED if drops else Finding.HEALTHY)


def test_a_repetition_does_not_make_a_flow_unhealthy() -> None:
    data = replace(SYN, flags=0x18, seq=101, ack=501, payload=b"hello", ip_id=5)
    ways = [along(SYN), back(SYN_ACK), along(SYN), back(SYN_ACK), along(data), along(data)]
    heard = trace(*ways).evidence["vm2:eth0"].observations
    drop = GuestDrop("vm2", heard[-1].time_ns + 1000, 0x0800, "TCP_OLD_DATA")
    found = trace(*ways, drops=[drop])
    assert found.ok
    assert conclude(found, FACTS).finding is Finding.HEALTHY
    assert any(one.remark for one in found.forward)


def test_what_is_left_of_an_earlier_attempt_is_not_part_of_the_flow() -> None:
    stale = replace(SYN_ACK, dport=39999, seq=7)
    reset = replace(SYN, sport=39999, flags=4, seq=101, **VALID)
    found = trace(back(stale), along(reset), along(SYN), back(SYN_ACK))
    began = FLOW.begun(found.forward)
    assert [one.kind for one in began] == ["SYN"]
    answers = follow(found.evidence, PATH[::-1], FLOW.returning(began))
    assert [one.dport for one in answers] == [40000]
    assert FLOW.begun(found.forward[:1]) == list(found.forward[:1]), "seen from its middle on"


def test_cut_evidence_never_makes_a_healthy_verdict() -> None:
    found = trace([*along(SYN)[:7], None], back(SYN_ACK), cut=["vm2:eth0"])
    assert conclude(found, FACTS).finding is Finding.UNKNOWN
    found = trace(along(SYN), back(SYN_ACK), cut=["vm2:eth0"])
    assert conclude(found, FACTS).finding is Finding.UNKNOWN
    found = trace(along(SYN, **LOST), said=TIMED_OUT, cut=["vm1-eth0"])
    assert conclude(found, FACTS).finding is Finding.LOST, "what was seen stays seen"


@pytest.mark.parametrize(
    ("said", "facts", "reason"),
    [
        (("1 error 101 Network is unreachable",), {"route": ""}, "no route"),
        (("1 error 101 Network is unreachable",), {}, "no route"),
        (("done",), {}, "nothing sent"),
    ],
)
def test_a_flow_that_never_comes_is_explained(
    said: Sequence[str], facts: dict[str, Any], reason: str
) -> None:
    verdict = conclude(trace(said=said), replace(FACTS, **facts))
    assert verdict.reason == reason
    assert "vm1:eth0 saw: nothing" in verdict.evidence


ECHO = Flow("icmp", None, 4, "10.0.1.1", "10.0.2.2", 1472)


def echo(size: int, count: int = 8, **more: Any) -> Trace:
    packet = Pkt(number=1, flags=8, ack=7, seq=0, payload=b"e" * size, sport=0, dport=0, **VALID)
    way: Way = [*along(packet)[:count], *[None] * (8 - count)]
    answer = replace(packet, src=packet.dst, dst=packet.src, flags=0)
    return trace(way, *([back(answer)] if count == 8 else []), said=(), flow=ECHO, **more)


def test_large_packets_that_vanish_are_an_mtu_problem() -> None:
    small = trace(along(SYN), back(SYN_ACK))
    assert conclude(small, FACTS, echo(1472)).finding is Finding.HEALTHY
    verdict = conclude(small, FACTS, echo(1472, 5))
    assert (verdict.finding, verdict.reason) == (Finding.OTHER, "MTU")
    assert "the veth of r1 (r1:eth1 to r1-eth1)" in verdict.sentence
    told = replace(
        echo(1472, 4), complaints=(Complaint("mtu", "too big", "10.0.1.254", "vm1:eth0", 1300),)
    )
    verdict = conclude(small, FACTS, told)
    assert verdict.finding is Finding.HEALTHY, "senders are told, so TCP adapts"
    assert "1300" in verdict.sentence


SILENT = ("ping: sendto: Network is unreachable",)


@pytest.mark.parametrize(
    "full",
    [
        echo(1472, 7, cut=["vm2:eth0"]),
        echo(1472, cut=["r1:eth1"]),
        replace(echo(1472), partial=True, notes=("the lab went down meanwhile",)),
        trace(said=SILENT, flow=ECHO),
    ],
    ids=["its end was not observed", "a capture was cut", "the lab went down", "nothing was sent"],
)
@pytest.mark.parametrize("facts", [FACTS, replace(FACTS, route="")])
def test_large_packets_that_were_not_seen_to_arrive_make_nothing_healthy(
    full: Trace, facts: Facts
) -> None:
    verdict = conclude(trace(along(SYN), back(SYN_ACK)), facts, full)
    assert verdict.finding is Finding.UNKNOWN
    assert "of 1472 bytes" in verdict.sentence
    assert {*full.notes, *(f"vm1 said: {line}" for line in full.said)} <= {*verdict.evidence}


def test_large_packets_that_end_for_another_reason_are_told_with_it() -> None:
    small = trace(along(SYN), back(SYN_ACK))
    verdict = conclude(small, replace(FACTS, down=("r1-eth1",)), echo(1472, 5))
    assert "because r1-eth1 is down" in verdict.sentence
    refused = Complaint("prohibited", "prohibited by a filter", "10.0.1.254", "vm1:eth0")
    verdict = conclude(small, FACTS, replace(echo(1472, 4), complaints=(refused,)))
    assert verdict.reason == "10.0.1.254 says: prohibited by a filter"


def test_large_packets_that_are_corrupted_are_no_mtu_problem() -> None:
    packet = Pkt(number=1, flags=8, ack=7, payload=b"e" * 1472, sport=0, dport=0, **VALID)
    full = trace(along(packet, state=Checksum.BAD), said=(), flow=ECHO)
    verdict = conclude(trace(along(SYN), back(SYN_ACK)), FACTS, full)
    assert verdict.finding is Finding.CORRUPTED
    assert verdict.where == "router r1 (eth0 to eth1)"


def test_icmp_errors_about_the_flow_are_found_and_others_are_not() -> None:
    quoted = SYN.frame()[14:]
    error = Pkt(src="10.0.1.254", dst="10.0.1.1", number=1, flags=3, payload=quoted, seq=1300)
    # Kind 3 code 4 with an MTU: by hand, as the builder knows echoes only.
    seen = hop("vm1:eth0", [(0, error)])
    frame = bytearray(seen.observations[0].record.frame)
    frame[35] = 4
    record = replace(seen.observations[0].record, frame=bytes(frame))
    observation = replace(seen.observations[0], record=record, judgement=record.classify())
    evidence = Evidence((replace(seen, observations=(observation, observation)),))
    (told,) = complaints(evidence, ["10.0.1.1", "10.0.2.2"])
    assert (told.what, told.mtu, told.sender, told.hop) == ("mtu", 1300, "10.0.1.254", "vm1:eth0")
    assert complaints(evidence, ["10.0.1.1", "192.0.2.1"]) == (), "about another flow of vm1's"


def test_sockets_are_read_from_the_kernels_tables() -> None:
    text = (
        "  sl  local_address rem_address   st tx_queue\n"
        "   0: 00000000:0016 00000000:0000 0A 00000000:00000000\n"
        "   1: 0100000A:0050 0200000A:C350 01 00000000:00000000\n"
        "   0: 00000000000000000000000000000000:0017 "
        "00000000000000000000000000000000:0000 0A 0:0\n"
    )
    assert [port for port in (22, 23, 80, 24) if listens(text, port)] == [22, 23]
