"""What the rings said of a packet is checked against what was expected, and never guessed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_capture_xenflags import flagged, frame, observation

from labctl.capture.session import Evidence, HopEvidence, Observation
from labctl.experiments import rings
from labctl.experiments.evidence import INCOMPLETE, PacketSelector, Step
from labctl.experiments.run_context import Arm
from labctl.kinds.observers.xen_rings import FlagsEvidence, FlagsSeen
from labctl.results.model import Verdict
from labctl.topology.points import outer_end
from labctl.tracing import packet_trace
from labctl.tracing.packet_trace import HopEvent

VIFS = ("vm1-eth0", "vm2-eth0")
HERE = outer_end("guest", "vm1", "vm1-eth0", "xen1")
WANTED = PacketSelector("a packet", "ACK", "10.0.1.1", "10.0.1.2", 22)


def traffic() -> tuple[Evidence, Observation]:
    """One packet in at the first vif and out at the second."""
    sent = observation(1000, frame())
    came = observation(2000, frame(), out=True, hop="vm2-eth0")
    hops = [HopEvidence(one.hop, (one,), None, None) for one in (sent, came)]
    return Evidence(tuple(hops)), sent


def told(out_of: int | None, into: int | None, note: str = "") -> FlagsEvidence:
    """The flags of that packet in both rings; None for a ring where it was not seen."""
    seen: list[FlagsSeen] = []
    if out_of is not None:
        seen.append(flagged(900, frame(), flags=out_of))
    if into is not None:
        seen.append(replace(flagged(2100, frame(), "rx", into), vif="vm2-eth0"))
    for vif in VIFS:  # so that both are known to have been watched
        seen.append(replace(flagged(1, b"other"), vif=vif))
    return FlagsEvidence(tuple(seen), note=note)


def verdict(flags: FlagsEvidence, expected: tuple[str, ...], tmp_path: Path) -> Verdict:
    evidence, sent = traffic()
    arm = Arm("arm", "", tmp_path, lambda _event: None)
    steps = [Step(packet_trace.Step(HERE, HopEvent.SENT, pieces=1, observations=(sent,)))]
    crossed = rings.passages(evidence, flags, VIFS)
    rings.check_flags(arm, flags, crossed, steps, WANTED, expected)
    return arm.checks[0].verdict


@pytest.mark.parametrize(
    ("out_of", "into", "expected", "came"),
    [
        (3, 3, rings.BOTH, Verdict.PASS),
        (0, 0, (), Verdict.PASS),
        (3, 0, rings.BOTH, Verdict.FAIL),  # lost on the way
        (0, 3, rings.BOTH, Verdict.FAIL),
        (3, 3, (), Verdict.FAIL),
        (2, 1, rings.BOTH, Verdict.FAIL),  # data_validated alone
        (3, None, rings.BOTH, Verdict.FAIL),  # the second ring is known never to have had it
    ],
)
def test_both_rings_must_say_what_is_expected(
    out_of: int, into: int | None, expected: tuple[str, ...], came: Verdict, tmp_path: Path
) -> None:
    assert verdict(told(out_of, into), expected, tmp_path) is came


def test_what_was_missed_is_an_error_and_no_fail(tmp_path: Path) -> None:
    missed = told(3, None, note="the flags of 1 packets were missed")
    assert verdict(missed, rings.BOTH, tmp_path) is Verdict.ERROR


def test_a_packet_that_a_capture_may_have_missed_is_an_error_and_no_fail(tmp_path: Path) -> None:
    for gap, expected in (("", Verdict.FAIL), (INCOMPLETE, Verdict.ERROR)):
        arm = Arm("arm", "", tmp_path, lambda _event: None)
        steps = [Step(packet_trace.Step(HERE, HopEvent.UNKNOWN), gap)]
        rings.check_flags(arm, told(3, 3), [], steps, WANTED, rings.BOTH)
        assert arm.checks[0].verdict is expected


def test_a_kernel_that_cannot_be_traced_is_a_skip_with_its_reason(tmp_path: Path) -> None:
    flags = FlagsEvidence((), why_not="cannot find out how Linux lays out its structures")
    assert verdict(flags, rings.BOTH, tmp_path) is Verdict.SKIP


def test_the_table_shows_sums_and_flags_of_both_ends() -> None:
    evidence, sent = traffic()
    judged = sent.judgement
    names = {judged.packet.src or "": "somebody"}  # the frame goes from an address to itself
    crossed = rings.passages(evidence, told(3, 3), VIFS)
    _, row = rings.lines(crossed, names)
    assert "somebody to somebody" in row
    assert row.endswith("  blank validated")
    _, differing = rings.lines(rings.passages(evidence, told(3, 0), VIFS), names)
    assert differing.endswith("  blank validated, then none")
    assert f"{judged.field:#06x}" in row
    assert rings.lines(crossed, {"10.9.9.9": "vm9"}) == rings.lines([], {})


def test_a_frame_that_changed_on_the_way_is_another_packet() -> None:
    evidence, _ = traffic()
    other = observation(2000, frame(2), out=True, hop="vm2-eth0")
    changed = Evidence((evidence.hops[0], HopEvidence("vm2-eth0", (other,), None, None)))
    assert rings.passages(changed, told(3, 3), VIFS) == []
