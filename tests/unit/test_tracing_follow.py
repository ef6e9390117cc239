"""Packet traces from hand-made captures: one packet through eight hops, and what can befall it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tracing_frames import (
    AHEAD,
    BEGIN,
    LOST,
    MS,
    PATH,
    VALID,
    Pkt,
    along,
    evidence,
    hop,
    tunnelled,
)

from labctl.capture.session import Evidence
from labctl.packet.checksum import Checksum, Metadata
from labctl.packet.frame import Packet
from labctl.topology import find, load
from labctl.topology.graph import find_path
from labctl.topology.points import ObservationPoint, outer_end
from labctl.tracing.clocks import Clock
from labctl.tracing.drop_events import GuestDrop
from labctl.tracing.follow import follow
from labctl.tracing.packet_trace import HopEvent, Outcome, PacketTrace, summary


def wanted(packet: Packet) -> bool:
    return packet.src == "10.0.1.1" and packet.protocol in ("tcp", "udp")


def course(packet_trace: PacketTrace) -> list[HopEvent]:
    return [step.happened for step in packet_trace.steps]


def test_a_healthy_packet_is_forwarded_from_end_to_end() -> None:
    (packet_trace,) = follow(evidence([along(Pkt())]), PATH, wanted)
    assert course(packet_trace) == [HopEvent.SENT] + [HopEvent.FORWARDED] * 7
    assert packet_trace.outcome is Outcome.ARRIVED
    assert packet_trace.ok
    assert packet_trace.where == ""
    assert "TTL 64 to 63" in packet_trace.steps[4].notes
    times = [step.time_ns for step in packet_trace.steps]
    assert times == sorted(times, key=lambda t: t or 0)
    assert abs((times[-1] or 0) - BEGIN) < MS, "vm2's clock is seven seconds ahead"


def test_the_router_that_lost_the_metadata_is_named() -> None:
    (packet_trace,) = follow(evidence([along(Pkt(), **LOST)]), PATH, wanted)
    assert course(packet_trace)[3:6] == [HopEvent.FORWARDED, HopEvent.LOST, HopEvent.FORWARDED]
    assert packet_trace.outcome is Outcome.DOOMED
    assert packet_trace.where == "router r1 (eth0 to eth1)"
    assert packet_trace.fault is packet_trace.steps[4]


def test_a_packet_finished_on_the_way_is_completed_and_arrives() -> None:
    (packet_trace,) = follow(evidence([along(Pkt(), **VALID)]), PATH, wanted)
    assert course(packet_trace)[4] is HopEvent.COMPLETED
    assert packet_trace.outcome is Outcome.ARRIVED


def test_a_wrong_sum_is_corruption() -> None:
    bad: dict[str, Any] = {"state": Checksum.BAD, "meta": Metadata.NONE}
    (packet_trace,) = follow(evidence([along(Pkt(**VALID), **bad)]), PATH, wanted)
    assert course(packet_trace)[4] is HopEvent.CORRUPTED
    assert packet_trace.outcome is Outcome.DOOMED


def test_another_payload_is_corruption_even_where_the_field_cannot_show_it() -> None:
    way = along(Pkt(payload=b"right", flags=0x18), payload=b"wrong")
    (packet_trace,) = follow(evidence([way]), PATH, wanted)
    assert course(packet_trace)[4] is HopEvent.CORRUPTED
    assert "another payload, which its checksum does not show" in packet_trace.steps[4].notes
    assert len(packet_trace.steps[7].observations) == 1


def test_a_packet_never_seen_again_vanished_where_it_was_last_seen() -> None:
    way: list[Pkt | None] = [*along(Pkt())[:2], *[None] * 6]
    (packet_trace,) = follow(evidence([way]), PATH, wanted)
    assert course(packet_trace)[2:] == [HopEvent.NOT_SEEN] * 6
    assert packet_trace.outcome is Outcome.VANISHED
    assert packet_trace.where == "the bridge between vm1-eth0 and r1-eth0"


def test_nothing_is_said_of_a_packet_that_only_cut_captures_missed() -> None:
    way: list[Pkt | None] = [*along(Pkt())[:7], None]
    (packet_trace,) = follow(evidence([way], cut=["vm2:eth0"]), PATH, wanted)
    assert course(packet_trace)[7] is HopEvent.UNKNOWN
    assert packet_trace.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("slack_ms", "ended_ms", "asked_ms", "happened"),
    [
        (0, 500, None, HopEvent.NOT_SEEN),
        (0, 200, None, HopEvent.UNKNOWN),
        (300, 500, None, HopEvent.UNKNOWN),  # it may have ended 200 ms after the packet
        (300, 700, None, HopEvent.NOT_SEEN),
        (3000, 500, None, HopEvent.UNKNOWN),  # a clock that is only guessed
        (3000, 500, 400, HopEvent.NOT_SEEN),  # but it ran when it was asked to end
        (3000, 500, 200, HopEvent.UNKNOWN),
    ],
)
def test_absence_is_proved_until_the_earliest_end_a_capture_may_have_had(
    slack_ms: int, ended_ms: int, asked_ms: int | None, happened: HopEvent
) -> None:
    found = evidence([[*along(Pkt())[:7], None]])
    seen_ns = found["vm2-eth0"].observations[0].time_ns
    last = found["vm2:eth0"]
    assert last.trailer is not None
    ended = replace(last.trailer, clock_ns=seen_ns + AHEAD + ended_ms * MS)
    asked = None if asked_ms is None else seen_ns + asked_ms * MS
    last = replace(last, trailer=ended, asked_ns=asked)
    found = Evidence((*found.hops[:-1], last))
    known = {place.name: Clock() for place in PATH} | {"vm2:eth0": Clock(AHEAD, slack_ms * MS)}
    (packet_trace,) = follow(found, PATH, wanted, known=known)
    assert course(packet_trace)[7] is happened


def test_a_gap_in_one_capture_does_not_end_the_packet_trace() -> None:
    way: list[Pkt | None] = list(along(Pkt()))
    way[2] = None
    (packet_trace,) = follow(evidence([way], cut=["r1-eth0"]), PATH, wanted)
    assert course(packet_trace)[2:4] == [HopEvent.UNKNOWN, HopEvent.FORWARDED]
    assert packet_trace.outcome is Outcome.ARRIVED


def test_a_packet_that_appears_on_the_way_begins_there() -> None:
    way: list[Pkt | None] = [None, None, None, *along(Pkt())[3:]]
    (packet_trace,) = follow(evidence([way]), PATH, wanted)
    assert course(packet_trace)[:4] == [HopEvent.NOT_SEEN] * 3 + [HopEvent.SENT]
    assert packet_trace.steps[3].notes == ("not seen before",)


def test_translated_addresses_and_ports_are_followed() -> None:
    way = along(Pkt(), src="192.0.2.9", sport=1024)
    (packet_trace,) = follow(evidence([way]), PATH, wanted)
    assert packet_trace.outcome is Outcome.ARRIVED
    assert "source 10.0.1.1:40000 to 192.0.2.9:1024" in packet_trace.steps[4].notes


def test_a_clamped_segment_size_is_the_same_packet() -> None:
    way = along(Pkt(options=b"\2\4\5\xb4"), options=b"\2\4\5\x78")
    (packet_trace,) = follow(evidence([way]), PATH, wanted)
    assert course(packet_trace)[4] is HopEvent.FORWARDED


def test_the_retransmission_that_got_through_is_not_the_first_attempt() -> None:
    first: list[Pkt | None] = [*along(Pkt(ip_id=1))[:4], *[None] * 4]
    second = along(Pkt(ip_id=2))
    lost, found = follow(evidence([first, second]), PATH, wanted)
    assert lost.outcome is Outcome.VANISHED
    assert found.outcome is Outcome.ARRIVED


def test_of_equal_packets_the_one_nearest_in_time_arrived() -> None:
    same = Pkt(src="fd00:1::1", dst="fd00:2::2")
    first: list[Pkt | None] = [*along(same)[:4], *[None] * 4]
    outcomes = [
        packet_trace.outcome
        for packet_trace in follow(
            evidence([first, along(same), along(same)]), PATH, lambda p: p.src == "fd00:1::1"
        )
    ]
    assert outcomes == [Outcome.VANISHED, Outcome.ARRIVED, Outcome.ARRIVED]


def test_a_super_frame_that_is_split_and_merged_again_is_one_packet_trace() -> None:
    data = bytes(range(256)) * 12
    big = Pkt(flags=0x18, payload=data, gso=1, gso_size=1000)
    parts = [
        replace(
            big,
            seq=big.seq + at,
            payload=data[at : at + 1000],
            gso=0,
            ip_id=1 + at // 1000,
            flags=0x10,
            ttl=63,
            **VALID,
        )
        for at in range(0, len(data), 1000)
    ]
    merged = replace(big, ttl=63, meta=Metadata.DATA_VALID, gso=1)
    hops = []
    for number, place in enumerate(PATH):
        if number < 4:
            seen = [(number * 10, big)]
        elif number < 7:
            seen = [(number * 10 + at, part) for at, part in enumerate(parts)]
        else:
            seen = [(number * 10, merged)]
        hops.append(hop(place.name, seen, out=number == 0))
    (packet_trace,) = follow(Evidence(tuple(hops)), PATH, wanted)
    assert [step.pieces for step in packet_trace.steps] == [1, 1, 1, 1, 4, 4, 4, 1]
    assert course(packet_trace)[4] is HopEvent.COMPLETED
    assert "in 4 pieces" in packet_trace.steps[4].notes
    assert course(packet_trace)[7] is HopEvent.MERGED
    assert packet_trace.outcome is Outcome.ARRIVED, "a merged frame's partial field accuses nobody"


def test_segments_merged_by_the_receiver_keep_their_packet_traces() -> None:
    one = Pkt(flags=0x10, payload=b"a" * 1000, ip_id=1, **VALID)
    two = replace(one, seq=1100, payload=b"b" * 1000, ip_id=2)
    merged = replace(
        one, payload=one.payload + two.payload, gso=1, gso_size=1000, state=Checksum.PARTIAL
    )
    first: list[Pkt | None] = [*along(one)[:7], replace(merged, ttl=63)]
    second: list[Pkt | None] = [*along(two)[:7], None]
    packet_traces = follow(evidence([first, second], gap=2), PATH, wanted)
    assert [packet_trace.outcome for packet_trace in packet_traces] == [Outcome.ARRIVED] * 2
    assert all(
        "merged with 1 other" in packet_trace.steps[7].notes for packet_trace in packet_traces
    )


def test_one_piece_without_metadata_condemns_a_split_frame() -> None:
    data = b"x" * 2000
    big = Pkt(flags=0x18, payload=data, gso=1, gso_size=1000)
    parts = [
        replace(big, payload=data[:1000], gso=0, **VALID),
        replace(big, seq=big.seq + 1000, payload=data[1000:], gso=0, **LOST),
    ]
    hops = [
        hop(p.name, [(n * 10, big)] if n < 4 else [(n * 10 + i, x) for i, x in enumerate(parts)])
        for n, p in enumerate(PATH)
    ]
    (packet_trace,) = follow(Evidence(tuple(hops)), PATH, wanted)
    assert course(packet_trace)[4] is HopEvent.LOST


def test_fragments_are_the_packet_they_were_cut_from() -> None:
    whole = Pkt(number=17, dport=4007, payload=b"d" * 1400, ip_id=77)
    segment = whole.segment()
    parts = [
        replace(whole, number=17, ttl=63, place=0x2000, payload=b"d" * 792),
        replace(whole, number=99, ttl=63, place=100, payload=segment[800:]),
    ]
    # The second piece has no UDP header of its own: its protocol byte is put right by hand.
    hops = []
    for number, place in enumerate(PATH):
        hops.append(hop(place.name, [(number * 10, whole)] if number < 4 else []))
    records = []
    for part in parts:
        record = part.record(BEGIN + MS)
        frame = bytearray(record.frame)
        frame[23] = 17
        records.append(replace(record, frame=bytes(frame)))
    for number in range(4, 8):
        base = hop(PATH[number].name, [])
        observations = tuple(
            type(s)(PATH[number].name, r, r.classify(1500))
            for r, s in zip(records, hop("x", [(0, p) for p in parts]).observations, strict=True)
        )
        hops[number] = replace(base, observations=observations)
    (packet_trace,) = follow(Evidence(tuple(hops)), PATH, wanted)
    assert [step.pieces for step in packet_trace.steps] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert course(packet_trace)[4] is HopEvent.SEGMENTED


def test_in_a_tunnel_the_inner_packet_is_judged() -> None:
    (packet_trace,) = follow(tunnelled(), PATH, wanted)
    assert packet_trace.kind == "SYN"
    assert [step.knowledge for step in packet_trace.steps[:5]] == ["partial, needs_csum"] * 5
    assert "inside VXLAN 7, the outer UDP: absent, needs_csum" in packet_trace.steps[1].notes
    assert course(packet_trace)[5] is HopEvent.LOST, "here it points at the outer header"


def drop(reason: str, micro: int, owner: str = "vm2", protocol: int = 0x0800) -> GuestDrop:
    return GuestDrop(owner, BEGIN + AHEAD + micro * 1000, protocol, reason)


def test_the_kernels_reason_ends_the_packet_trace_of_the_packet_it_dropped() -> None:
    seen = evidence([along(Pkt(), **LOST)])
    (packet_trace,) = follow(seen, PATH, wanted, drops=[drop("TCP_CSUM", 120)])
    assert packet_trace.outcome is Outcome.DROPPED
    assert packet_trace.reason == packet_trace.steps[-1].reason == "TCP_CSUM"
    assert packet_trace.where == "router r1 (eth0 to eth1)", "who harmed it, not who noticed"


@pytest.mark.parametrize(
    "told",
    [
        drop("TCP_CSUM", 120, owner="vm1"),
        drop("TCP_CSUM", 120, protocol=0x86DD),
        drop("NO_SOCKET", 120),
        drop("TCP_CSUM", -900_000),
        drop("TCP_CSUM", 20_000_000),
        drop("NOT_SPECIFIED", 120),
    ],
)
def test_another_packets_drop_is_not_this_ones(told: GuestDrop) -> None:
    seen = evidence([along(Pkt(), **LOST)])
    (packet_trace,) = follow(seen, PATH, wanted, drops=[told])
    assert packet_trace.outcome is Outcome.DOOMED


def test_a_drop_long_after_is_another_packets_unless_it_was_summed_late() -> None:
    late = drop("UDP_CSUM", 3_000_000)
    way = along(Pkt(number=17, payload=b"late"), **LOST)
    (packet_trace,) = follow(evidence([way]), PATH, wanted, drops=[late])
    assert packet_trace.reason == "UDP_CSUM"
    (packet_trace,) = follow(
        evidence([along(Pkt())]), PATH, wanted, drops=[drop("NETFILTER_DROP", 3_000_000)]
    )
    assert packet_trace.outcome is Outcome.ARRIVED


def test_a_sound_packet_is_not_dropped_for_its_checksum() -> None:
    (packet_trace,) = follow(evidence([along(Pkt())]), PATH, wanted, drops=[drop("TCP_CSUM", 120)])
    assert packet_trace.outcome is Outcome.ARRIVED
    (packet_trace,) = follow(
        evidence([along(Pkt())]), PATH, wanted, drops=[drop("NETFILTER_DROP", 120)]
    )
    assert packet_trace.outcome is Outcome.DROPPED
    assert packet_trace.where == "vm2"


def test_packet_traces_of_the_same_course_are_told_once() -> None:
    ways = [along(Pkt(ip_id=number)) for number in range(1, 4)]
    ways.append(along(Pkt(ip_id=9), **LOST))
    counted = summary(follow(evidence(ways), PATH, wanted))
    assert [count for _, count in counted] == [3, 1]


def test_a_packet_trace_is_plain_data() -> None:
    (packet_trace,) = follow(evidence([along(Pkt(), **LOST)]), PATH, wanted)
    told = json.loads(json.dumps(packet_trace.to_json()))
    assert told["where"] == "router r1 (eth0 to eth1)"
    assert told["steps"][4]["happened"] == "metadata lost"
    assert told["steps"][4]["field"] == told["steps"][4]["pseudo_sum"]
    assert [step["hop"] for step in told["steps"]] == [place.name for place in PATH]
    ends = [("guest", "vm1"), ("host", "vm1"), ("host", "r1"), ("router", "r1")]
    assert [(step["place"], step["owner"]) for step in told["steps"][:4]] == ends


UPLINK = find_path(load(find("xen-uplink")), "vm1", "vm3").points
CLOCKS = {"vm1": 9 * AHEAD, "xen1": -4 * AHEAD, "": 0, "vm3": AHEAD}
SENDS = ("vm1:eth0", "xen1:eth0", "vm3-eth0")


def seen_at(path: Sequence[ObservationPoint], *, back: bool = True) -> Evidence:
    """A packet and its answer over `path`, 100 microseconds a hop, on everybody's own clock."""
    there, answer = Pkt(sport=1000), Pkt(src="10.0.1.2", dst="10.0.1.1", sport=22, dport=1000)
    hops = []
    for number, place in enumerate(path):
        ahead = CLOCKS[place.context]
        one = hop(place.name, [(100 * number, there)], out=place.name in SENDS, clock_ns=ahead)
        if back:
            late = 5000 - 100 * number
            other = hop(place.name, [(late, answer)], out=place.name not in SENDS, clock_ns=ahead)
            one = replace(one, observations=(*one.observations, *other.observations))
        hops.append(one)
    return Evidence(tuple(hops))


@pytest.mark.parametrize("path", [UPLINK, UPLINK[::-1]], ids=["out", "in"])
def test_times_through_an_uplink_are_told_on_one_clock(path: tuple[ObservationPoint, ...]) -> None:
    (packet_trace,) = follow(seen_at(path), path, lambda packet: packet.dport == 22)
    assert [step.time_ns for step in packet_trace.steps] == [
        pytest.approx(BEGIN + 100_000 * number, abs=100_000) for number in range(len(path))
    ]
    assert set(course(packet_trace)[1:]) == {HopEvent.FORWARDED}


def test_a_way_inside_one_xen_host_is_told_on_our_clock_as_nearly_as_it_is_known() -> None:
    path = (*UPLINK[:2], outer_end("guest", "vm2", "vm2-eth0", "xen1"))
    soon = BEGIN + 1_000_000_000
    (packet_trace,) = follow(seen_at(path), path, lambda packet: packet.dport == 22, until_ns=soon)
    assert abs(packet_trace.started_ns - BEGIN) < 1_000_000
    assert follow(seen_at(path), path, lambda packet: packet.dport == 22, until_ns=0) == []
