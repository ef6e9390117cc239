"""Whose a drop is that a guest's kernel tells of, and when nothing was lost by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tracing_frames import LOST, MS, PATH, Pkt, along, hop

from labctl.capture.session import Evidence, Observation
from labctl.packet.frame import Packet
from labctl.tracing.drop_events import (
    ENDED_REASONS,
    ODD_REASONS,
    REPEATED_REASONS,
    GuestArrival,
    GuestDrop,
)
from labctl.tracing.follow import clocks, follow
from labctl.tracing.packet_trace import HopEvent, Outcome, PacketTrace, summary

SYN = Pkt(seq=100)
SYN_ACK = Pkt(src="10.0.2.2", dst="10.0.1.1", sport=22, dport=40000, flags=0x12, seq=500, ack=101)
DATA = replace(SYN, flags=0x18, seq=101, ack=501, payload=b"SSH-2.0-client\r\n", ip_id=2)
"""Bytes 101 to 116."""
FIN = replace(SYN, flags=0x11, seq=117, ack=501, ip_id=3)
ACKED = replace(SYN_ACK, flags=0x10, seq=501, ack=117)
OTHER = replace(SYN_ACK, flags=0x10, seq=501, ack=101)
RST = replace(SYN, flags=0x14, seq=118, ack=501, ip_id=4)
Way = Sequence[Pkt | None]


def there(packet: Packet) -> bool:
    return packet.src == "10.0.1.1"


def captured(ways: Sequence[Pkt | Way], *, ends: dict[str, int] | None = None) -> Evidence:
    """Packets, or what was seen of them at each hop, one a millisecond and each on its way."""
    hops = []
    for number, place in enumerate(PATH):
        seen = []
        for index, one in enumerate(ways):
            way = along(one) if isinstance(one, Pkt) else one
            forward = next(p for p in way if p is not None).src == "10.0.1.1"
            packet = way[number] if forward else way[::-1][number]
            if packet is not None:
                late = number if forward else len(PATH) - number
                seen.append((index * 1000 + late * 10, packet))
        found = hop(place.name, seen)
        if ends and place.name in ends and found.trailer is not None:
            ended = found.trailer.clock_ns - 60_000 * MS + ends[place.name] * 1000
            found = replace(found, trailer=replace(found.trailer, clock_ns=ended))
        hops.append(found)
    return Evidence(tuple(hops))


def at_vm2(evidence: Evidence, index: int) -> Observation:
    """The packet of that number from vm1, as vm2 saw it."""
    heard = [s for s in evidence["vm2:eth0"].observations if there(s.judgement.packet)]
    return heard[index]


def drop(
    evidence: Evidence, index: int, reason: str, *, named: bool = True, device: str = "eth0"
) -> GuestDrop:
    """What vm2's kernel tells of a packet, `named` with how it arrived."""
    seen = at_vm2(evidence, index)
    length = seen.record.original_length - 14
    arrival = GuestArrival(seen.time_ns + 1000, device, length)
    arrivals = (arrival,) if named else None
    return GuestDrop("vm2", seen.time_ns + 50_000, 0x0800, reason, arrivals=arrivals)


def packet_traces(evidence: Evidence, *drops: GuestDrop) -> list[PacketTrace]:
    return follow(evidence, PATH, there, drops=drops)


def ends(evidence: Evidence, *drops: GuestDrop) -> list[tuple[Outcome, str]]:
    return [(one.outcome, one.reason) for one in packet_traces(evidence, *drops)]


FINE = (Outcome.ARRIVED, "")


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("reason", sorted(REPEATED_REASONS | ODD_REASONS - {"TCP_INVALID_SYN"}))
def test_a_copy_of_what_arrived_is_no_loss(reason: str, named: bool) -> None:
    seen = captured([SYN, SYN_ACK, DATA, DATA])
    found = packet_traces(seen, drop(seen, 2, reason, named=named))
    assert [one.outcome for one in found] == [Outcome.ARRIVED] * 3
    assert [one.remark for one in found] == [
        "",
        "",
        f"dropped as {reason}: a copy of what had arrived",
    ]
    assert found[2].remark in found[2].steps[-1].notes
    assert found[2].to_json()["remark"] == found[2].remark
    assert len(summary(found)) == 3, "a copy is shown apart from what it repeats"


@pytest.mark.parametrize("reason", ["TCP_OLD_DATA", "TCP_INVALID_SEQUENCE", "TCP_OFOMERGE"])
def test_the_reason_alone_does_not_excuse_a_packet_that_repeats_nothing(reason: str) -> None:
    seen = captured([SYN, SYN_ACK, DATA])
    assert ends(seen, drop(seen, 1, reason)) == [FINE, (Outcome.DROPPED, reason)]
    assert ends(seen, drop(seen, 1, reason, named=False)) == [FINE, FINE], (
        "which of the guest's connections is meant is not told: only a copy would fit"
    )


def test_a_copy_of_what_was_dropped_itself_is_lost_with_it() -> None:
    seen = captured([SYN, DATA, DATA])
    drops = [drop(seen, 1, "SOCKET_RCVBUFF"), drop(seen, 2, "TCP_INVALID_SEQUENCE")]
    assert [outcome for outcome, _ in ends(seen, *drops)] == [
        Outcome.ARRIVED,
        Outcome.DROPPED,
        Outcome.DROPPED,
    ]


def test_a_copy_of_what_could_not_be_accepted_is_lost_with_it() -> None:
    broken = along(DATA, **LOST)
    seen = captured([SYN, broken, DATA])
    found = packet_traces(seen, drop(seen, 1, "TCP_CSUM"), drop(seen, 2, "TCP_INVALID_SEQUENCE"))
    assert [one.outcome for one in found] == [Outcome.ARRIVED, Outcome.DROPPED, Outcome.DROPPED]


def test_other_bytes_in_the_same_place_are_no_copy() -> None:
    changed = replace(DATA, payload=DATA.payload[::-1])
    seen = captured([SYN, DATA, changed])
    assert ends(seen, drop(seen, 2, "TCP_OLD_DATA"))[2] == (Outcome.DROPPED, "TCP_OLD_DATA")


def test_a_repetition_cut_otherwise_is_a_copy_too() -> None:
    halves = [
        replace(DATA, payload=DATA.payload[:9]),
        replace(DATA, seq=110, payload=DATA.payload[9:]),
    ]
    both = replace(FIN, seq=101, payload=DATA.payload)
    seen = captured([SYN, *halves, FIN, both])
    assert ends(seen, drop(seen, 4, "TCP_OLD_DATA"))[4] == FINE
    seen = captured([SYN, halves[0], FIN, both])
    found = ends(seen, drop(seen, 3, "TCP_OLD_DATA"))
    assert found[3] == (Outcome.DROPPED, "TCP_OLD_DATA"), "not all of it had come"


def test_what_was_acknowledged_had_arrived_even_where_that_was_not_seen() -> None:
    seen = captured([ACKED, DATA])
    assert ends(seen, drop(seen, 0, "TCP_INVALID_SEQUENCE")) == [FINE]
    seen = captured([OTHER, DATA])
    assert ends(seen, drop(seen, 0, "TCP_INVALID_SEQUENCE"))[0][0] is Outcome.DROPPED
    seen = captured([DATA, ACKED])
    assert ends(seen, drop(seen, 0, "TCP_OLD_DATA")) == [FINE], "it acknowledges the copy at once"
    later = ends(seen, drop(seen, 0, "TCP_INVALID_SEQUENCE"))
    assert later[0][0] is Outcome.DROPPED, "that may be for what was sent once more"


def test_a_second_syn_and_an_old_acknowledgement_are_no_losses() -> None:
    seen = captured([SYN, SYN_ACK, replace(SYN, ip_id=9)])
    assert ends(seen, drop(seen, 1, "TCP_INVALID_SYN")) == [FINE, FINE]
    old = replace(SYN, flags=0x10, seq=101, ack=501, ip_id=8)
    seen = captured([SYN, SYN_ACK, replace(old, ack=900, ip_id=7), old])
    assert ends(seen, drop(seen, 2, "TCP_OLD_ACK"))[2] == FINE
    seen = captured([SYN, SYN_ACK, old])
    assert ends(seen, drop(seen, 1, "TCP_OLD_ACK"))[1][0] is Outcome.DROPPED, "nothing is older"


@pytest.mark.parametrize("reason", sorted(ENDED_REASONS - {"TCP_RESET"}))
@pytest.mark.parametrize("flags", [0x11, 0x14])
def test_what_comes_after_the_end_of_its_connection_is_no_loss(reason: str, flags: int) -> None:
    ended = replace(ACKED, flags=flags, ack=101)
    seen = captured([SYN, SYN_ACK, ended, DATA])
    found = packet_traces(seen, drop(seen, 1, reason))
    assert [one.outcome for one in found] == [Outcome.ARRIVED] * 2
    assert found[1].remark == f"dropped as {reason}: its connection had ended there"
    seen = captured([SYN, SYN_ACK, DATA, ended])
    assert ends(seen, drop(seen, 1, reason))[1] == (Outcome.DROPPED, reason), "it ended later"


def test_a_closed_port_is_still_told_though_it_was_reset_before() -> None:
    reset = replace(SYN_ACK, flags=0x14)
    seen = captured([SYN, reset, replace(SYN, ip_id=5)])
    drops = [drop(seen, 0, "NO_SOCKET"), drop(seen, 1, "NO_SOCKET")]
    assert ends(seen, *drops) == [(Outcome.DROPPED, "NO_SOCKET")] * 2


def test_an_answer_repeated_after_the_client_had_closed_is_no_loss() -> None:
    asked = replace(SYN_ACK, sport=40000, dport=22, flags=0x02, ack=0)
    answer = replace(SYN, sport=22, dport=40000, flags=0x12, ack=501)
    heard = replace(asked, flags=0x10, seq=501, ack=101)
    again = replace(answer, ip_id=9)
    for flags in (0x11, 0x14):
        closed = replace(heard, flags=flags)
        seen = captured([asked, answer, heard, closed, again])
        found = packet_traces(seen, drop(seen, 1, "NO_SOCKET"))
        assert [one.outcome for one in found] == [Outcome.ARRIVED] * 2
        assert found[1].remark == "dropped as NO_SOCKET: its connection had ended there"
    seen = captured([asked, answer, heard, again])
    assert ends(seen, drop(seen, 1, "NO_SOCKET"))[1][0] is Outcome.DROPPED, "it had not ended"
    refused = replace(heard, flags=0x04)
    seen = captured([asked, refused, answer, again])
    drops = [drop(seen, 0, "NO_SOCKET"), drop(seen, 1, "NO_SOCKET")]
    assert [outcome for outcome, _ in ends(seen, *drops)] == [Outcome.DROPPED] * 2, (
        "it was never heard"
    )


def test_the_end_of_an_earlier_connection_excuses_nothing_in_the_next() -> None:
    ended = replace(ACKED, flags=0x11, ack=101)
    seen = captured([SYN, SYN_ACK, ended, replace(SYN, seq=9000), replace(DATA, seq=9001)])
    assert ends(seen, drop(seen, 2, "TCP_CLOSE"))[2] == (Outcome.DROPPED, "TCP_CLOSE")


@pytest.mark.parametrize("named", [True, False])
def test_a_reset_is_dropped_once_it_is_obeyed(named: bool) -> None:
    seen = captured([SYN, SYN_ACK, RST])
    assert ends(seen, drop(seen, 1, "TCP_RESET", named=named)) == [FINE, FINE]


def test_a_real_reason_is_a_loss_even_of_a_copy() -> None:
    seen = captured([SYN, DATA, DATA])
    found = ends(seen, drop(seen, 2, "NETFILTER_DROP"))
    assert found[2] == (Outcome.DROPPED, "NETFILTER_DROP")


@pytest.mark.parametrize("reason", ["NETFILTER_DROP", "TCP_OLD_DATA", "NO_SOCKET", "TCP_RESET"])
def test_what_came_by_another_device_is_nobodys_here(reason: str) -> None:
    seen = captured([SYN, DATA, DATA])
    told = drop(seen, 2, reason, device="mgmt0")
    assert ends(seen, told) == [FINE] * 3
    sent = replace(told, arrivals=())
    assert ends(seen, sent) == [FINE] * 3, "what it sends itself is not what arrived"


def test_the_arrival_names_the_packet_however_late_it_is_dropped() -> None:
    seen = captured([SYN, SYN_ACK, DATA, FIN])
    told = drop(seen, 1, "NETFILTER_DROP")
    late = replace(told, time_ns=told.time_ns + 30_000 * MS)
    assert ends(seen, late) == [FINE, (Outcome.DROPPED, "NETFILTER_DROP"), FINE]
    vague = replace(told, time_ns=at_vm2(seen, 2).time_ns + 1000, arrivals=None)
    assert ends(seen, vague) == [FINE, FINE, (Outcome.DROPPED, "NETFILTER_DROP")], "the nearest"


def test_the_packet_is_known_by_its_length_where_several_came_at_once() -> None:
    seen = captured([SYN, SYN_ACK, DATA, FIN])
    told = drop(seen, 1, "NETFILTER_DROP")
    (arrival,) = told.arrivals or ()
    between = replace(arrival, time_ns=at_vm2(seen, 2).time_ns)
    told = replace(told, arrivals=(between,))
    assert ends(seen, told) == [FINE, (Outcome.DROPPED, "NETFILTER_DROP"), FINE]


def test_a_packet_unwrapped_on_its_way_in_is_known_by_any_of_its_devices() -> None:
    seen = captured([SYN])
    told = drop(seen, 0, "NETFILTER_DROP")
    (arrival,) = told.arrivals or ()
    inside = replace(arrival, device="vxlan0", length=arrival.length - 50)
    assert ends(seen, replace(told, arrivals=(arrival, inside)))[0][0] is Outcome.DROPPED


@pytest.mark.parametrize("reason", ["UDP_CSUM", "OTHERHOST", "QUEUE_PURGE", "NOT_SPECIFIED"])
def test_a_reason_that_a_packet_cannot_get_is_not_given_to_it(reason: str) -> None:
    seen = captured([SYN])
    assert ends(seen, drop(seen, 0, reason, named=False)) == [FINE]


def test_merged_packets_are_dropped_together() -> None:
    one = replace(DATA, payload=b"a" * 1000)
    two = replace(one, seq=1101, payload=b"b" * 1000, ip_id=7)
    merged = replace(one, payload=one.payload + two.payload, gso=1, gso_size=1000, ttl=63)
    seen = captured([[*along(one)[:7], None], [*along(two)[:7], merged]])
    told = drop(seen, 0, "NETFILTER_DROP")
    assert ends(seen, told) == [(Outcome.DROPPED, "NETFILTER_DROP")] * 2


def test_the_step_says_that_the_kernel_dropped_it() -> None:
    seen = captured([SYN])
    (packet_trace,) = packet_traces(seen, drop(seen, 0, "NETFILTER_DROP"))
    assert packet_trace.steps[-1].happened is HopEvent.DROPPED
    assert packet_trace.steps[-1].reason == "NETFILTER_DROP"
    assert packet_trace.remark == ""


def test_a_capture_that_ended_meanwhile_proves_nothing() -> None:
    half: Way = [*along(DATA)[:3], *[None] * 5]
    later = {place.name: 3_000_000 for place in PATH}
    _, packet_trace = packet_traces(captured([SYN, SYN_ACK, half], ends=later))
    assert packet_trace.outcome is Outcome.VANISHED
    soon = {place.name: 100_000 for place in PATH}
    _, packet_trace = packet_traces(captured([SYN, SYN_ACK, half], ends=soon))
    assert packet_trace.outcome is Outcome.UNKNOWN
    assert {step.happened for step in packet_trace.steps[3:]} == {HopEvent.UNKNOWN}


def test_what_begins_after_the_flow_was_taken_to_have_ended_is_not_followed() -> None:
    seen = captured([SYN, SYN_ACK, [*along(DATA)[:2], *[None] * 6]])
    begun = packet_traces(seen)[0].started_ns
    assert [one.outcome for one in packet_traces(seen)] == [Outcome.ARRIVED, Outcome.VANISHED]
    known = clocks(seen, PATH)
    kept = follow(seen, PATH, there, known=known, until_ns=begun + MS)
    assert [one.kind for one in kept] == ["SYN"]
