"""What a trace makes of streams that are whole, and were ended by somebody else."""

from __future__ import annotations

from dataclasses import replace

from tracing_frames import BEGIN, MS, PATH, hop

from labctl.capture.session import Evidence, HopEvidence
from labctl.kinds.observers.drops import Arrival, Drop
from labctl.tracing.clocks import HOST, Clock
from labctl.tracing.drop_events import GuestArrival
from labctl.tracing.evidence import cut, early, on_clock

ASKED = BEGIN + 10_000 * MS
KNOWN = {place.name: HOST for place in PATH} | {"vm2:eth0": Clock(5_000 * MS, 10 * MS)}


def ended(name: str, at_ns: int) -> HopEvidence:
    found = hop(name, [])
    assert found.trailer is not None
    return replace(found, trailer=replace(found.trailer, clock_ns=at_ns))


def test_a_capture_that_ended_before_it_was_asked_to_is_told() -> None:
    whole = [ended("vm1-eth0", ASKED + MS), ended("vm2:eth0", ASKED + 5_000 * MS - 8 * MS)]
    assert early(Evidence(tuple(whole)), KNOWN, ASKED) == []
    short = ended("r1:eth0", ASKED - 4_000 * MS)
    told = early(Evidence((*whole, short)), KNOWN, ASKED)
    assert told == ["the capture ended too early at r1:eth0"]


def test_a_cut_capture_is_told_once() -> None:
    evidence = Evidence((hop("vm1-eth0", [], cut=True), hop("r1-eth0", [], cut=True)))
    assert early(evidence, KNOWN, ASKED) == []
    assert cut(evidence) == ["the capture is cut at vm1-eth0, r1-eth0: it ends within a block"]


def test_drops_and_arrivals_are_put_on_the_clock_of_the_packets() -> None:
    drop = Drop(2.5, 2048, "x", None, (Arrival(2.25, "eth0", 60),))
    found = on_clock("vm1", drop, 7_000)
    assert (found.owner, found.time_ns, found.reason) == ("vm1", 2_500_007_000, "")
    assert found.arrivals == (GuestArrival(2_250_007_000, "eth0", 60),)
    assert on_clock("vm1", replace(drop, arrivals=None), 0).arrivals is None
