"""A record tells the packet traces that its run was judged by: none is followed in another way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tracing_frames import LOST, MS, PATH, VALID, Pkt, along, evidence, hop, tunnelled

from labctl.capture import pcapng
from labctl.capture.session import Evidence
from labctl.events import silent
from labctl.experiments.evidence import (
    PacketSelector,
    Step,
    check_states,
    everywhere,
    fault_location,
    walk,
)
from labctl.experiments.run_context import Arm
from labctl.packet.checksum import Checksum, Metadata
from labctl.report.gather import from_record
from labctl.results import Recorder
from labctl.results.recorder import TOPOLOGY
from labctl.topology import find, load, serialize
from labctl.tracing.follow import follow
from labctl.tracing.packet_trace import HopEvent
from labctl.tracing.recorded import first_of, follow_along
from report_records import classify

SYN = Pkt()
AGAIN = replace(SYN, ip_id=2)
DATAGRAM = Pkt(number=17, dport=4007, payload=b"right")
ANSWER = Pkt("10.0.2.2", "10.0.1.1", 22, 40000, flags=0x12, ack=1)
ENDS = PacketSelector("SYN vm1 to vm2", "SYN", "10.0.1.1", "10.0.2.2", 22)
BACK = PacketSelector("SYN-ACK vm2 to vm1", "SYN-ACK", "10.0.2.2", "10.0.1.1", 22)
SENT = PacketSelector("UDP vm1 to vm2", "UDP", "10.0.1.1", "10.0.2.2", 4007)


def super_datagram() -> Evidence:
    """A UDP super-frame that a router cuts into datagrams."""
    whole = Pkt(number=17, dport=4007, payload=bytes(range(250)) * 12, gso=5, gso_size=1000)
    hops = []
    for number, point in enumerate(PATH):
        parts = [whole]
        if number > 3:
            parts = [
                replace(whole, payload=whole.payload[at : at + 1000], gso=0, gso_size=0, **VALID)
                for at in range(0, 3000, 1000)
            ]
        seen = [(number * 10 + place, part) for place, part in enumerate(parts)]
        hops.append(hop(point.name, seen, out=number % 2 == 0))
    return Evidence(tuple(hops))


def ended(after_ms: int) -> Evidence:
    """A packet that did not come to a guest whose capture ended so soon after."""
    seen = evidence([[*along(SYN)[:7], None]])
    last = seen.hops[-1]
    assert last.trailer is not None
    clock_ns = last.trailer.clock_ns - 60_000 * MS + after_ms * MS
    return Evidence(
        (*seen.hops[:-1], replace(last, trailer=replace(last.trailer, clock_ns=clock_ns)))
    )


def asked_late() -> Evidence:
    """The same of a guest whose clock is only guessed: that it was to end later proves enough."""
    *others, last = ended(100).hops
    return Evidence((*others, replace(last, asked_ns=1_700_000_000_000_000_000 + 9_000 * MS)))


def repeated() -> Evidence:
    """A packet that was lost, and its repetition."""
    first: list[Pkt | None] = [*along(SYN)[:2], *[None] * 6]
    return evidence([first, along(AGAIN)], gap=1_000_000)


CAPTURES: dict[str, Callable[[], Evidence]] = {
    "well": lambda: evidence([along(SYN)]),
    "lost": lambda: evidence([along(SYN, **LOST)]),
    "corrupted": lambda: evidence([along(DATAGRAM, payload=b"wrong")]),
    "repeated": repeated,
    "seen twice": lambda: evidence([along(SYN), along(SYN, **LOST)]),
    "past the packet sockets": lambda: evidence(
        [[*along(SYN)[:3], None, None, *along(SYN, **LOST)[5:]]]
    ),
    "cut": lambda: evidence([[*along(SYN)[:7], None]], cut=["vm2:eth0"]),
    "a super-frame": super_datagram,
    "in a tunnel": tunnelled,
    "ended too soon": lambda: ended(100),
    "ended late enough": lambda: ended(500),
    "asked to end later": asked_late,
}


@pytest.mark.parametrize("name", CAPTURES)
def test_what_is_followed_from_a_file_is_what_was_followed_from_the_capture(
    name: str, tmp_path: Path
) -> None:
    before = CAPTURES[name]()
    pcapng.write(tmp_path / "x.pcapng", before.hops)
    after = pcapng.read(tmp_path / "x.pcapng")
    told = [
        [one.to_json() for one in follow(seen, path, lambda _: True)]
        for seen in (before, after)
        for path in (PATH, PATH[::-1])
    ]
    assert told[:2] == told[2:]


def seen_by_an_experiment() -> Evidence:
    """A connection whose first SYN was lost, a datagram that was damaged, and the answer."""
    ways: list[list[Pkt | None]] = [
        [*along(SYN)[:3], *[None] * 5],
        [*along(AGAIN, **LOST)],
        [*along(DATAGRAM, payload=b"wrong")],
        [*along(replace(DATAGRAM, sport=40009))],
    ]
    there = evidence(ways, gap=1_000_000)
    back = evidence([[None] * 8, along(ANSWER, **VALID)], path=PATH[::-1], gap=1_500_000)
    return Evidence(
        tuple(
            replace(one, observations=(*one.observations, *back[one.hop].observations))
            for one in there.hops
        )
    )


def data(steps: list[Step]) -> list[dict[str, Any]]:
    return [step.told.to_json() for step in steps]


def test_a_verdict_and_the_report_of_its_record_are_of_the_same_steps(tmp_path: Path) -> None:
    seen = seen_by_an_experiment()
    ways = {
        wanted: walk(seen, PATH if wanted.source == "10.0.1.1" else PATH[::-1], wanted)
        for wanted in (ENDS, BACK, SENT)
    }
    with Recorder.create("mine", tmp_path) as recorder:
        arm = Arm("one/ipv4", "an arm", recorder.captures, silent)
        expectation = everywhere(Checksum.PARTIAL, Metadata.NEEDS_CSUM)
        for wanted, steps in ways.items():
            check_states(arm, steps, wanted, "as expected", expectation)
        arm.keep(seen)
        topology = serialize.to_json(load(find("router-hop.yaml")))
        (recorder.path / TOPOLOGY).write_text(json.dumps(topology))
        run = classify(recorder, [arm.result()])
        recorder.finish(run)
    (told,) = from_record(recorder.path, run).arms
    assert told.path == PATH
    for wanted, check in zip(ways, told.result.checks, strict=True):
        packet_trace = told.first(wanted.kind)
        assert packet_trace is not None
        assert [step.to_json() for step in packet_trace.steps] == data(ways[wanted])
        assert [line.partition(" (")[0] for line in check.evidence] == [
            f"{step.hop}: {ways[wanted][number].state}"
            for number, step in enumerate(packet_trace.steps)
        ]
        if packet_trace.fault:
            assert fault_location(ways[wanted]) == packet_trace.where
    answer = told.first("SYN-ACK")
    assert answer is not None
    assert [step.happened for step in answer.steps][4] is HopEvent.COMPLETED
    assert [one.kind for one in told.packet_traces].count("SYN-ACK") == 1, "one way only"


def test_which_way_a_packet_goes_is_known_where_its_sender_was_not_heard() -> None:
    seen = seen_by_an_experiment()
    deaf = Evidence((replace(seen.hops[0], observations=()), *seen.hops[1:]))
    assert {one.kind for one in follow_along(deaf, PATH)} == {"SYN", "UDP"}
    assert {one.kind for one in follow_along(deaf, PATH[::-1])} == {"SYN-ACK"}
    outside = Evidence((seen.hops[0], *(replace(one, observations=()) for one in seen.hops[1:])))
    assert {one.kind for one in follow_along(outside, PATH[::-1])} == {"SYN-ACK"}


def test_the_first_packet_of_a_kind_is_the_one_that_was_seen_nearest_to_its_sender() -> None:
    late = [None, None, None, *along(replace(SYN, sport=39999))[3:]]
    found = follow_along(evidence([late, along(AGAIN), along(SYN)]), PATH)
    first = first_of(found, "SYN", "10.0.1.1", "10.0.2.2", 22)
    assert first is not None
    assert first.started_ns == min(one.started_ns for one in found if one.sport == 40000)
    assert first_of(found, "SYN", port=23) is None
    assert first_of(found, "UDP") is None
