"""One number for one packet: the same at each hop, another for each other packet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tracing_frames import Pkt, along, evidence

from labctl.capture.packet_ids import PacketIds
from labctl.capture.session import Evidence

ECHO: dict[str, Any] = {"number": 1, "flags": 0}


def numbers(seen: Evidence, ids: PacketIds | None = None) -> list[list[int]]:
    ids = ids or PacketIds()
    return [[ids(one) for one in hop.observations] for hop in seen.hops]


def test_a_packet_keeps_its_number_over_routers_and_changed_checksums() -> None:
    seen = numbers(evidence([along(Pkt()), along(Pkt(seq=900))]))
    assert len(seen) == 8
    assert all(hop == seen[0] for hop in seen)
    assert seen[0][0] != seen[0][1]


def test_a_translated_address_does_not_make_another_packet_of_it() -> None:
    assert len({hop[0] for hop in numbers(evidence([along(Pkt(), src="192.0.2.9")]))}) == 1
    assert len({hop[0] for hop in numbers(evidence([along(Pkt(), dst="192.0.2.9")]))}) == 1


def test_one_address_after_the_other_may_be_translated() -> None:
    first, last = Pkt(), replace(Pkt(), src="192.0.2.1", dst="192.0.2.2")
    way = [first] * 3 + [replace(first, src="192.0.2.1")] * 2 + [last] * 3
    assert len({hop[0] for hop in numbers(evidence([way]))}) == 1


def test_two_flows_with_the_same_content_are_two_packets() -> None:
    one = Pkt(number=17, payload=b"x" * 8, ip_id=0)
    other = replace(one, src="10.0.1.7", dst="10.0.2.7")
    seen = numbers(evidence([[one] * 4 + [None] * 4, [None] * 4 + [other] * 4]))
    assert {hop[0] for hop in seen[:4]}.isdisjoint(hop[0] for hop in seen[4:])


def test_a_repetition_is_another_packet_and_stands_in_for_the_one_that_was_lost() -> None:
    lost = [Pkt()] * 3 + [None] * 5
    seen = numbers(evidence([lost, [Pkt()] * 8]))
    assert len(set(seen[0])) == 2
    assert seen[7] == [seen[0][1]]


def test_the_same_frames_have_the_same_numbers_in_each_file() -> None:
    seen = evidence([along(Pkt())] * 3)
    assert numbers(seen) == numbers(seen)


def test_who_repeats_one_packet_without_end_fills_no_memory() -> None:
    ids = PacketIds(most=100)
    seen = evidence([[Pkt()] + [None] * 7] * 300)
    assert len({number for hop in numbers(seen, ids) for number in hop}) == 300
    numbers(evidence([[Pkt(seq=n)] + [None] * 7 for n in range(300)]), ids)
    assert len(ids._alike) <= 100
    assert all(len(alike) <= 64 for alike in ids._alike.values())
