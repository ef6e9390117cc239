"""From packet traces to statements: states along a path, where metadata was lost, what passes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tracing_frames import LOST, MS, PATH, VALID, Pkt, along, evidence

from labctl.capture.session import Evidence
from labctl.events import silent
from labctl.experiments.evidence import (
    PacketSelector,
    Step,
    check_states,
    everywhere,
    fault_location,
    until,
    walk,
)
from labctl.experiments.probes import Answer
from labctl.experiments.run_context import Arm
from labctl.experiments.text_tables import table
from labctl.packet.checksum import Checksum, Metadata
from labctl.results.model import Verdict
from labctl.topology.points import ObservationPoint
from labctl.tracing.follow import follow

SYN = PacketSelector("SYN vm1 to vm2", "SYN", "10.0.1.1", "10.0.2.2", 22)
GOOD = Pkt()
ORPHAN = replace(GOOD, **LOST)
SUMMED = replace(GOOD, **VALID)
CHECKED = replace(GOOD, state=Checksum.VALID, meta=Metadata.DATA_VALID)
BAD = replace(GOOD, state=Checksum.BAD, meta=Metadata.NONE)


def steps(*way: Pkt | None, cut: Sequence[str] = ()) -> list[Step]:
    """The steps of a packet that was so at each hop of the path; None: not seen there."""
    assert len(way) == len(PATH)
    return walk(evidence([way], cut=cut), PATH, SYN)


def where_a_trace_says(seen: Evidence) -> list[str]:
    """The place that each SYN's packet trace names."""
    return [one.where for one in follow(seen, PATH, lambda packet: packet.kind == "SYN")]


def arm() -> Arm:
    return Arm("a", "an arm", Path("/nowhere"), silent)


# --- walk ---------------------------------------------------------------------------------------


def test_a_walk_follows_the_first_packet_of_its_kind() -> None:
    ways = [
        along(replace(GOOD, src="10.0.1.9")),
        along(replace(GOOD, dport=80)),
        along(replace(GOOD, sport=40001)),
        along(replace(GOOD, sport=40002), **LOST),
    ]
    found = walk(evidence(ways), PATH, SYN)
    assert {step.seen.judgement.packet.sport for step in found if step.seen} == {40001}
    assert {step.state for step in found} == {"partial, needs_csum"}


def test_an_answer_is_followed_along_the_path_back() -> None:
    answer = replace(GOOD, src="10.0.2.2", dst="10.0.1.1", sport=22, dport=40000, flags=0x12, ack=1)
    seen = evidence([along(answer, **LOST)], path=PATH[::-1])
    found = walk(seen, PATH[::-1], PacketSelector("SYN-ACK", "SYN-ACK", "10.0.2.2", "10.0.1.1", 22))
    assert [step.hop.name for step in found] == [point.name for point in PATH[::-1]]
    assert fault_location(found) == "router r1 (eth1 to eth0)"


def test_a_retransmission_does_not_stand_in_for_the_packet_that_was_lost() -> None:
    again = along(replace(GOOD, ip_id=2))
    first: list[Pkt | None] = [*along(GOOD)[:2], *[None] * 6]
    found = walk(evidence([first, again], gap=1_000_000), PATH, SYN)
    assert [step.state for step in found] == ["partial, needs_csum"] * 2 + ["not seen"] * 6


def test_a_packet_that_came_twice_is_told_as_it_first_came() -> None:
    twice = along(GOOD, **LOST)
    found = walk(evidence([along(GOOD), twice]), PATH, SYN)
    assert fault_location(found) == ""
    assert [len(step.told.observations) for step in found] == [1] * 8


def test_a_packet_seen_nowhere_is_told_hop_by_hop() -> None:
    found = walk(evidence([], cut=["r1:eth0"]), PATH, SYN)
    assert [step.state for step in found] == [
        *["not seen"] * 3, "unknown: the capture is not complete", *["not seen"] * 4,
    ]  # fmt: skip


def test_translated_addresses_do_not_end_the_way() -> None:
    found = walk(evidence([along(GOOD, src="192.0.2.1", sport=5000)]), PATH, SYN)
    assert all(step.seen for step in found)


def test_of_a_super_frame_that_was_cut_the_worst_piece_speaks() -> None:
    whole = replace(GOOD, flags=0x18, payload=bytes(2000), gso=1, gso_size=1000)
    piece = replace(whole, payload=bytes(1000), gso=0, gso_size=0, ttl=63, mac=7)
    ways: list[list[Pkt | None]] = [
        [*[whole] * 4, *[None] * 4],
        [*[None] * 4, *[piece] * 4],
        [*[None] * 4, *[replace(piece, seq=1100, **LOST)] * 4],
    ]
    seen = evidence(ways)
    found = walk(seen, PATH, replace(SYN, kind="TCP data"))
    assert [step.state for step in found[3:5]] == ["partial, needs_csum", "partial, no metadata"]
    assert fault_location(found) == "router r1 (eth0 to eth1)"
    assert found[4].seen is not None
    assert found[4].seen.judgement.lost


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "state"),
    [
        (GOOD, "partial, needs_csum"),
        (ORPHAN, "partial, no metadata"),
        (CHECKED, "valid, data_valid"),
        (SUMMED, "valid"),
        (BAD, "bad"),
    ],
)
def test_a_state_is_told_in_words(packet: Pkt, state: str) -> None:
    assert steps(*[packet] * 8)[0].state == state


def test_not_seen_is_believed_only_where_the_capture_is_complete() -> None:
    way = [*[GOOD] * 7, None]
    assert steps(*way)[7].state == "not seen"
    assert steps(*way, cut=["vm2:eth0"])[7].state == "unknown: the capture is not complete"


def test_not_seen_is_not_believed_where_the_capture_ended_soon_after() -> None:
    seen = evidence([[*[GOOD] * 7, None]])
    last = seen.hops[-1]
    assert last.trailer is not None
    ended = last.trailer.clock_ns - 60_000 * MS + 100 * MS
    short = replace(last, trailer=replace(last.trailer, clock_ns=ended))
    found = walk(Evidence((*seen.hops[:-1], short)), PATH, SYN)
    assert found[7].state == "unknown: the capture ended too soon"
    one = arm()
    check_states(one, found, SYN, "expected", UNFINISHED)
    assert one.checks[0].verdict is Verdict.ERROR
    assert one.checks[0].observed == "the capture ended too soon at vm2:eth0"


def test_a_line_shows_the_field_beside_its_two_sums() -> None:
    way = [*[GOOD] * 7, None]
    value = steps(*way)[0].told
    assert steps(*way)[0].line == (
        f"vm1:eth0: partial, needs_csum (field {value.field:#06x}, "
        f"pseudo-header sum {value.pseudo_sum:#06x}, full sum {value.expected:#06x})"
    )
    assert steps(*way)[7].line == "vm2:eth0: not seen"


# --- where it was lost --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "where"),
    [
        ([GOOD] * 4 + [ORPHAN] * 4, "router r1 (eth0 to eth1)"),
        ([GOOD] + [ORPHAN] * 7, "vm1's network device (vm1:eth0 to vm1-eth0)"),
        ([GOOD] * 2 + [ORPHAN] * 6, "the bridge between vm1-eth0 and r1-eth0"),
        ([GOOD] * 3 + [ORPHAN] * 5, "the veth of r1 (r1-eth0 to r1:eth0)"),
        ([ORPHAN] * 8, "vm1 itself"),
        ([GOOD] * 8, ""),
        ([GOOD] * 7 + [CHECKED], ""),
        # What XDP redirects passes no packet socket inside the router.
        ([GOOD] * 3 + [None] * 2 + [ORPHAN] * 3, "router r1 (r1-eth0 to r1-eth1)"),
        ([GOOD] * 3 + [None] + [ORPHAN] * 4, "router r1 (r1-eth0 to eth1)"),
        ([GOOD] * 4 + [None] + [ORPHAN] * 3, "router r1 (eth0 to r1-eth1)"),
        ([GOOD] * 2 + [None] * 3 + [ORPHAN] * 3, "between vm1-eth0 and r1-eth1"),
    ],
)
def test_verdict_and_trace_name_the_same_place(way: Sequence[Pkt | None], where: str) -> None:
    assert fault_location(steps(*way)) == where
    assert where_a_trace_says(evidence([way])) == [where]


def test_a_damaged_payload_fails_though_the_field_does_not_show_it() -> None:
    sent = replace(GOOD, number=17, payload=b"right")
    datagram = replace(SYN, kind="UDP")
    found = walk(evidence([along(sent, payload=b"wrong")]), PATH, datagram)
    assert fault_location(found) == "router r1 (eth0 to eth1)"
    one = arm()
    assert not check_states(one, found, datagram, "expected", UNFINISHED)
    assert one.checks[0].observed == "r1:eth1: partial, needs_csum, another payload"


def test_a_packet_that_is_expected_to_be_damaged_may_be() -> None:
    found = steps(*[SUMMED] * 4, *[BAD] * 4)
    after = {point.name for point in PATH[4:]}

    def expected(hop: ObservationPoint) -> tuple[Checksum, Metadata | None]:
        return (Checksum.BAD if hop.name in after else Checksum.VALID), None

    assert check_states(arm(), found, SYN, "expected", expected)
    assert fault_location(found) == "router r1 (eth0 to eth1)"


# --- checks -------------------------------------------------------------------------------------

UNFINISHED = everywhere(Checksum.PARTIAL, Metadata.NEEDS_CSUM)


def test_states_as_expected_pass_with_a_line_of_evidence_a_hop() -> None:
    one = arm()
    assert check_states(one, steps(*[GOOD] * 8), SYN, "expected", UNFINISHED)
    (check,) = one.checks
    assert check.observed == "so at all 8 hops"
    assert len(check.evidence) == 8


def test_one_hop_that_differs_fails_and_is_named() -> None:
    one = arm()
    assert not check_states(one, steps(*[GOOD] * 7, ORPHAN), SYN, "expected", UNFINISHED)
    assert one.checks[0].verdict is Verdict.FAIL
    assert one.checks[0].observed == "vm2:eth0: partial, no metadata"


def test_a_packet_not_seen_fails_where_nothing_was_missed_and_is_an_error_where_it_may_be() -> None:
    for complete, verdict in ((True, Verdict.FAIL), (False, Verdict.ERROR)):
        one = arm()
        found = steps(*[GOOD] * 7, None, cut=[] if complete else ["vm2:eth0"])
        assert not check_states(one, found, SYN, "expected", UNFINISHED)
        assert one.checks[0].verdict is verdict
        assert "vm2:eth0" in one.checks[0].observed


def test_what_is_seen_to_differ_fails_even_where_another_hop_is_blind() -> None:
    one = arm()
    found = steps(*[GOOD] * 6, ORPHAN, None, cut=["vm2:eth0"])
    check_states(one, found, SYN, "expected", UNFINISHED)
    assert one.checks[0].verdict is Verdict.FAIL


def test_no_metadata_expected_means_anything_but_needs_csum() -> None:
    finished = everywhere(Checksum.VALID, None)
    odd = replace(SUMMED, meta=Metadata.NEEDS_CSUM)
    assert check_states(arm(), steps(*[CHECKED, SUMMED] * 4), SYN, "expected", finished)
    assert not check_states(arm(), steps(*[SUMMED] * 7, odd), SYN, "expected", finished)


def test_until_expects_the_loss_after_one_hop_exactly() -> None:
    expected = until("r1:eth0", PATH, (Checksum.PARTIAL, Metadata.NONE))
    right = steps(GOOD, GOOD, GOOD, GOOD, ORPHAN, ORPHAN, ORPHAN, ORPHAN)
    early = steps(GOOD, GOOD, GOOD, ORPHAN, ORPHAN, ORPHAN, ORPHAN, ORPHAN)
    late = steps(GOOD, GOOD, GOOD, GOOD, GOOD, ORPHAN, ORPHAN, ORPHAN)
    assert check_states(arm(), right, SYN, "expected", expected)
    assert not check_states(arm(), early, SYN, "expected", expected)
    assert not check_states(arm(), late, SYN, "expected", expected)


# --- the story's table --------------------------------------------------------------------------


def test_the_table_has_a_row_a_hop_and_the_fate_last() -> None:
    columns = {
        "kernel": (steps(*[GOOD] * 8), Answer(True, "works")),
        "raw": (steps(*[GOOD] * 4, *[ORPHAN] * 4), Answer(False, "hangs: vm2 counted 2")),
        "odd": (steps(*[GOOD] * 8), Answer(False, "Connection refused")),
        "open": (steps(*[GOOD] * 8), Answer(None, "?")),
    }
    lines = table(columns)
    assert len(lines) == 12
    assert lines[0].split() == ["hop", "place", "kernel", "raw", "odd", "open"]
    assert "partial, no metadata" in lines[9]
    assert re.split("  +", lines[-1].strip()) == [
        "SSH", "works", "hangs", "fails", "could not be told",
    ]  # fmt: skip
