"""From sightings to statements: states along a path, where metadata was lost, what is a pass."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from labctl.events import silent
from labctl.experiments.evidence import (
    Step,
    Wanted,
    check_states,
    culprit,
    everywhere,
    lost_between,
    until,
    walk,
)
from labctl.experiments.probes import Answer
from labctl.experiments.story import table
from labctl.experiments.trial import Arm
from labctl.packet.checksum import Checksum, Metadata
from labctl.results.model import Verdict
from labctl.topology import find, load
from labctl.topology.graph import find_path
from labctl.topology.points import ObservationPoint

PATH = find_path(load(find("router-hop")), "vm1", "vm2").points
SYN = Wanted("SYN vm1 to vm2", "SYN", "10.0.1.1", "10.0.2.1", 22)


@dataclass
class Packet:
    src: str = "10.0.1.1"
    dst: str = "10.0.2.1"
    sport: int = 40000
    dport: int = 22


@dataclass
class Judged:
    """As much of a `Judgement` as evidence reads."""

    state: Checksum = Checksum.PARTIAL
    metadata: Metadata = Metadata.NEEDS_CSUM
    kind: str = "SYN"
    packet: Packet = field(default_factory=Packet)
    field: int | None = 0x1234
    pseudo_sum: int | None = 0x1234
    expected: int | None = None

    @property
    def lost(self) -> bool:
        return self.state is Checksum.PARTIAL and self.metadata is Metadata.NONE


@dataclass
class Seen:
    judgement: Judged


@dataclass
class HopSeen:
    sightings: list[Seen]
    complete: bool = True


GOOD = Judged()
LOST = Judged(metadata=Metadata.NONE)
FINISHED = Judged(state=Checksum.VALID, metadata=Metadata.DATA_VALID)


def step(hop: ObservationPoint, judged: Judged | None, complete: bool = True) -> Step:
    seen: Any = Seen(judged) if judged else None
    return Step(hop, seen, complete)


def steps(*judged: Judged | None) -> list[Step]:
    assert len(judged) == len(PATH)
    return [step(hop, one) for hop, one in zip(PATH, judged, strict=True)]


def arm() -> Arm:
    return Arm("a", "an arm", Path("/nowhere"), silent)


# --- walk ---------------------------------------------------------------------------------------


def test_a_walk_finds_the_first_packet_of_its_kind_at_each_hop() -> None:
    other = Judged(packet=Packet(src="10.0.1.9"))
    answer = Judged(kind="SYN-ACK", packet=Packet("10.0.2.1", "10.0.1.1", 22, 40000))
    second = Judged(metadata=Metadata.NONE)
    elsewhere = Judged(packet=Packet(dport=80))
    seen: Any = {
        "vm1:eth0": HopSeen([Seen(other), Seen(answer), Seen(elsewhere), Seen(GOOD), Seen(second)]),
        "vm2:eth0": HopSeen([Seen(answer)], complete=False),
    }
    found = walk(seen, [PATH[0], PATH[-1]], SYN)
    assert found[0].seen is seen["vm1:eth0"].sightings[3]
    assert (found[1].seen, found[1].complete) == (None, False)


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("judged", "state"),
    [
        (GOOD, "partial, needs_csum"),
        (LOST, "partial, no metadata"),
        (FINISHED, "valid, data_valid"),
        (Judged(state=Checksum.VALID, metadata=Metadata.NONE), "valid"),
        (Judged(state=Checksum.BAD, metadata=Metadata.NONE), "bad"),
    ],
)
def test_a_state_is_told_in_words(judged: Judged, state: str) -> None:
    assert step(PATH[0], judged).state == state


def test_not_seen_is_believed_only_where_the_capture_is_complete() -> None:
    assert step(PATH[0], None).state == "not seen"
    assert step(PATH[0], None, complete=False).state == "unknown: the capture is not complete"


def test_a_line_shows_the_field_beside_its_two_sums() -> None:
    line = step(PATH[0], Judged(expected=0xBEEF)).line
    assert line == (
        "vm1:eth0: partial, needs_csum (field 0x1234, pseudo-header sum 0x1234, full sum 0xbeef)"
    )
    assert step(PATH[0], None).line == "vm1:eth0: not seen"


# --- where it was lost --------------------------------------------------------------------------


def test_a_loss_inside_a_router_names_the_router() -> None:
    found = steps(GOOD, GOOD, GOOD, GOOD, LOST, LOST, LOST, LOST)
    assert lost_between(found) == (PATH[3], PATH[4])
    assert culprit(found) == "router r1 (eth0 to eth1)"


def test_a_loss_elsewhere_names_both_hops() -> None:
    found = steps(GOOD, LOST, LOST, LOST, LOST, LOST, LOST, LOST)
    assert culprit(found) == "between vm1:eth0 and vm1-eth0"


@pytest.mark.parametrize(
    "judged",
    [
        [GOOD] * 8,
        [GOOD] * 7 + [FINISHED],
        [LOST] * 8,  # never had it
        [GOOD] * 3 + [None] + [LOST] * 4,  # between is not known
    ],
)
def test_without_two_neighbours_that_prove_it_nobody_is_blamed(judged: list[Judged | None]) -> None:
    assert lost_between(steps(*judged)) is None
    assert culprit(steps(*judged)) == ""


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
    assert not check_states(one, steps(*[GOOD] * 7, LOST), SYN, "expected", UNFINISHED)
    assert one.checks[0].verdict is Verdict.FAIL
    assert one.checks[0].observed == "vm2:eth0: partial, no metadata"


def test_a_packet_not_seen_fails_where_nothing_was_missed_and_is_an_error_where_it_may_be() -> None:
    for complete, verdict in ((True, Verdict.FAIL), (False, Verdict.ERROR)):
        one = arm()
        found = [*steps(*[GOOD] * 8)[:7], step(PATH[-1], None, complete)]
        assert not check_states(one, found, SYN, "expected", UNFINISHED)
        assert one.checks[0].verdict is verdict
        assert "vm2:eth0" in one.checks[0].observed


def test_what_is_seen_to_differ_fails_even_where_another_hop_is_blind() -> None:
    one = arm()
    found = [*steps(*[GOOD] * 6, LOST, None)[:7], step(PATH[-1], None, complete=False)]
    check_states(one, found, SYN, "expected", UNFINISHED)
    assert one.checks[0].verdict is Verdict.FAIL


def test_no_metadata_expected_means_anything_but_needs_csum() -> None:
    finished = everywhere(Checksum.VALID, None)
    plain = Judged(state=Checksum.VALID, metadata=Metadata.NONE)
    odd = Judged(state=Checksum.VALID, metadata=Metadata.NEEDS_CSUM)
    assert check_states(arm(), steps(*[FINISHED, plain] * 4), SYN, "expected", finished)
    assert not check_states(arm(), steps(*[plain] * 7, odd), SYN, "expected", finished)


def test_until_expects_the_loss_after_one_hop_exactly() -> None:
    expected = until("r1:eth0", PATH, (Checksum.PARTIAL, Metadata.NONE))
    right = steps(GOOD, GOOD, GOOD, GOOD, LOST, LOST, LOST, LOST)
    early = steps(GOOD, GOOD, GOOD, LOST, LOST, LOST, LOST, LOST)
    late = steps(GOOD, GOOD, GOOD, GOOD, GOOD, LOST, LOST, LOST)
    assert check_states(arm(), right, SYN, "expected", expected)
    assert not check_states(arm(), early, SYN, "expected", expected)
    assert not check_states(arm(), late, SYN, "expected", expected)


# --- the story's table --------------------------------------------------------------------------


def test_the_table_has_a_row_a_hop_and_the_fate_last() -> None:
    columns = {
        "kernel": (steps(*[GOOD] * 8), Answer(True, "works")),
        "raw": (steps(*[GOOD] * 4, *[LOST] * 4), Answer(False, "hangs: vm2 counted 2")),
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
