"""Finding packets again: what ties them together, and what must not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_packet_checksum import eth, ip, tcp
from tracing_frames import BEGIN, MS, VALID, Pkt, hop

from labctl.packet.frame import parse
from labctl.packet.keys import differences
from labctl.tracing.clocks import GUESS_SLACK_NS, guest_clock
from labctl.tracing.matching import Seen, match, prepare


def seen(*packets: tuple[int, Pkt], name: str = "x") -> list[Seen]:
    return prepare(hop(name, packets).observations)


def pairs(before: list[Seen], after: list[Seen], slack_ns: int = 0) -> list[tuple[int, int]]:
    return [(link.earlier, link.later) for link in match(before, after, slack_ns)]


DATA = Pkt(flags=0x18, payload=b"payload", **VALID)


def test_other_packets_of_the_flow_are_not_mistaken() -> None:
    before = seen((0, DATA))
    for other in (
        replace(DATA, seq=999),
        replace(DATA, flags=0x11, payload=b""),
        replace(DATA, number=17),
        replace(DATA, payload=b"another payload"),
    ):
        assert pairs(before, seen((5, other))) == []


def test_the_checksum_does_not_matter() -> None:
    assert pairs(seen((0, Pkt())), seen((5, Pkt(**VALID)))) == [(0, 0)]


def test_pure_acks_are_told_apart_by_their_identification() -> None:
    acks = [replace(DATA, flags=0x10, payload=b"", ip_id=number) for number in range(3)]
    before = seen(*((n, ack) for n, ack in enumerate(acks)))
    after = seen((10, acks[2]), (11, acks[0]))
    assert pairs(before, after) == [(0, 1), (2, 0)]


def test_sequence_numbers_wrap() -> None:
    big = Pkt(flags=0x18, seq=0xFFFFFF00, payload=bytes(1000), gso=1, gso_size=500)
    parts = [
        replace(big, payload=bytes(500), gso=0),
        replace(big, seq=0x000000F4, payload=bytes(500), gso=0),
    ]
    assert pairs(seen((0, big)), seen((5, parts[0]), (6, parts[1]))) == [(0, 0), (0, 1)]


def test_bytes_of_a_repeated_segment_belong_to_the_repetition() -> None:
    one = replace(DATA, payload=b"a" * 100)
    two = replace(one, seq=one.seq + 100, payload=b"b" * 100, ip_id=2)
    again = replace(one, ip_id=3)
    merged = replace(one, payload=one.payload + two.payload, gso=1, gso_size=100)
    before = seen((0, one), (100, two), (200, again))
    assert pairs(before, seen((300, merged))) == [(1, 0), (2, 0)]


def test_the_same_bytes_of_another_stream_are_not_followed() -> None:
    one = replace(DATA, payload=b"a" * 100)
    other = replace(one, seq=50_000_000, payload=b"a" * 200)
    assert pairs(seen((0, one)), seen((5, other))) == []


def test_datagrams_of_a_super_frame_are_followed_both_ways() -> None:
    big = Pkt(number=17, payload=b"a" * 100 + b"b" * 100 + b"c" * 30, gso=5, gso_size=100)
    parts = [
        replace(big, payload=big.payload[at : at + 100], gso=0, ip_id=50 + at)
        for at in (0, 100, 200)
    ]
    small = [(5 + n, part) for n, part in enumerate(parts)]
    assert pairs(seen((0, big)), seen(*small)) == [(0, 0), (0, 1), (0, 2)]
    assert pairs(seen(*small), seen((9, big))) == [(0, 0), (1, 0), (2, 0)]


def carrier(inner: Pkt) -> Pkt:
    return Pkt(
        src="192.0.2.1",
        dst="192.0.2.2",
        sport=50000,
        dport=4789,
        number=17,
        payload=b"\x08\0\0\0\0\0\x07\0" + inner.frame(),
    )


def test_a_packet_is_found_inside_its_tunnel_and_after_it() -> None:
    assert pairs(seen((0, DATA)), seen((5, carrier(DATA)))) == [(0, 0)]
    assert pairs(seen((0, carrier(DATA))), seen((5, DATA))) == [(0, 0)]
    other = replace(DATA, seq=999)
    assert pairs(seen((0, other)), seen((5, carrier(DATA)))) == []


def test_an_effect_does_not_come_before_its_cause() -> None:
    same = replace(DATA, ip_id=0)
    before = seen((0, same), (1000, same))
    assert pairs(before, seen((500, same))) == [(0, 0)]
    assert pairs(before, seen((1500, same))) == [(1, 0)]
    assert pairs(before, seen((500, same)), slack_ns=600_000) == [(1, 0)]


def test_a_damaged_packet_is_found_by_its_headers_and_said_to_be_damaged() -> None:
    (link,) = match(seen((0, DATA)), seen((5, replace(DATA, payload=b"daylopa"))))
    assert link.damaged
    assert match(seen((0, DATA)), seen((5, replace(DATA, payload=b"longer than it")))) == []


@given(st.data())
def test_what_arrives_unchanged_is_found_whatever_else_is_lost(data: Any) -> None:
    count = data.draw(st.integers(1, 12))
    sizes = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    kept = data.draw(st.sets(st.integers(0, count - 1)))
    packets = [
        replace(DATA, seq=100 + 10 * (n // 2), payload=b"x" * size, ip_id=n + 1)
        for n, size in enumerate(sizes)
    ]
    before = seen(*((n * 10, packet) for n, packet in enumerate(packets)))
    after = seen(*((n * 10 + 5, packets[n]) for n in sorted(kept)))
    links = match(before, after)
    assert [link.earlier for link in links] == sorted(kept)
    assert not any(link.damaged or link.part for link in links)


def test_a_guests_clock_lies_between_what_it_sent_and_what_it_got() -> None:
    ahead = 5_000 * MS
    out, back = Pkt(), Pkt(src="10.0.2.2", dst="10.0.1.1")
    inside = hop("vm1:eth0", [(0, out)], out=True, clock_ns=ahead)
    more = hop("vm1:eth0", [(900, back)], clock_ns=ahead)
    inside = replace(inside, observations=inside.observations + more.observations)
    clock = guest_clock(inside, hop("vm1-eth0", [(100, out), (700, back)]))
    assert abs(clock.offset_ns - ahead) <= clock.slack_ns <= 200_000
    # Seen one way only, the offset is bounded; with nothing in common it is a guess.
    one_way = guest_clock(inside, hop("vm1-eth0", [(100, out)]))
    assert abs(one_way.offset_ns - ahead) <= one_way.slack_ns
    guess = guest_clock(replace(inside, arrived_ns=BEGIN + 3), hop("vm1-eth0", []))
    assert (guess.offset_ns, guess.slack_ns) == (ahead - 3, GUESS_SLACK_NS)
    # Beside a hop of a Xen host's dom0, whose clock is another than ours.
    dom0 = hop("vif1.0", [], clock_ns=2_000 * MS)
    assert guest_clock(inside, dom0).offset_ns == ahead - 2_000 * MS


def test_what_is_no_ip_packet_is_left_out() -> None:
    arp = hop("x", [(0, DATA)])
    record = replace(arp.observations[0].record, frame=bytes(12) + b"\x08\x06" + bytes(28))
    other = replace(arp.observations[0], record=record, judgement=record.classify())
    assert prepare([other]) == []


@pytest.mark.parametrize(("version", "name"), [(4, "TTL"), (6, "hop limit")])
def test_what_a_router_takes_one_from_has_its_name(version: int, name: str) -> None:
    before = parse(eth(ip(version, 6, tcp())))
    after = replace(before, ttl=63)
    assert differences(before, after) == [f"{name} 64 to 63"]
