"""What a trace tells besides its packets: mappings, what is left to cut, what was missed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tracing_frames import LOST, PATH, Pkt, along, evidence

from labctl.capture.session import Evidence
from labctl.errors import UsageError
from labctl.packet.virtio import GSO_TCPV4, GSO_UDP_L4
from labctl.tracing import events
from labctl.tracing.flow import Flow
from labctl.tracing.follow import follow
from labctl.tracing.packet_trace import PacketTrace
from labctl.tracing.result import Trace
from labctl.tracing.schema import LINE, json_schema
from labctl.tracing.segmentation import segmentation
from labctl.tracing.translations import translations

FLOW = Flow("tcp", 22, 4, "10.0.1.1", "10.0.2.2")


def traces(seen: Evidence, path: Any = PATH) -> list[PacketTrace]:
    return follow(seen, path, lambda _: True)


def result(seen: Evidence) -> Trace:
    there = tuple(traces(seen))
    return Trace("lab", "vm1", "vm2", FLOW, PATH, seen, there, translations=translations(there, ()))


# --- translation ----------------------------------------------------------------------------------


def test_a_mapping_is_named_with_its_place_and_how_often_it_was_used() -> None:
    there = traces(evidence([along(Pkt(), src="10.0.2.254", sport=61000)] * 2))
    answer = Pkt("10.0.2.2", "10.0.2.254", sport=22, dport=61000, flags=0x12, ack=101)
    back_ways = [answer] * 4 + [replace(answer, dst="10.0.1.1", dport=40000, ttl=63)] * 4
    back = traces(evidence([back_ways], path=PATH[::-1]), PATH[::-1])
    (found,) = translations(there, back)
    assert (found.what, found.before, found.after) == (
        "source",
        "10.0.1.1:40000",
        "10.0.2.254:61000",
    )
    assert found.where.startswith("router r1")
    assert (found.there, found.back) == (2, 1)
    assert found.line.startswith("SNAT at router r1")


def test_a_translated_destination_is_named_too_and_nothing_else_is() -> None:
    (found,) = translations(traces(evidence([along(Pkt(), dst="10.0.2.9")])), ())
    assert found.line.startswith("DNAT at router r1")
    assert translations(traces(evidence([along(Pkt(), **LOST)])), ()) == ()


# --- segmentation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "segments", "words"),
    [
        (Pkt(gso=GSO_TCPV4, gso_size=1448, payload=b"x" * 4000, flags=0x10), 3, "TSO"),
        (Pkt(gso=GSO_TCPV4, gso_size=1448, payload=b"x" * 2896, flags=0x10), 2, "TSO"),
        (Pkt(number=17, gso=GSO_UDP_L4, gso_size=1000, payload=b"x" * 1001), 2, "USO"),
        (Pkt(payload=b"x" * 4000, flags=0x10), None, "4000 bytes of payload in one frame"),
    ],
)
def test_what_is_left_to_cut_is_told_in_words(
    packet: Pkt, segments: int | None, words: str
) -> None:
    seen = evidence([[packet] + [None] * 7]).hops[0].observations[0]
    found = segmentation(seen)
    assert found is not None
    assert found.segments == segments
    assert words in found.words
    if segments:
        assert f"{segments} segments of {packet.gso_size} bytes" in found.words


def test_a_packet_of_its_own_has_nothing_left_to_cut() -> None:
    assert segmentation(evidence([[Pkt()] + [None] * 7]).hops[0].observations[0]) is None


# --- JSON -----------------------------------------------------------------------------------------


def test_every_line_is_as_the_schema_says() -> None:
    gone: list[Pkt | None] = [*along(Pkt(seq=5))[:4], None, None, None, None]
    big = Pkt(seq=9, gso=GSO_TCPV4, gso_size=1448, payload=b"x" * 4000, flags=0x10)
    found = result(evidence([along(Pkt(), **LOST), gone, along(Pkt(), src="10.9.9.9"), along(big)]))
    lines = [{"event": "ready", **events.ready("lab", FLOW, PATH)}]
    lines += [{"event": "packet", **one.to_json()} for one in found.packet_traces]
    lines.append({"event": "end", **events.end(found)})
    validator = Draft202012Validator(json_schema())
    for line in lines:
        text = json.dumps(line)
        LINE.validate_json(text)
        validator.validate(json.loads(text))
    assert {line["event"] for line in lines} == {"ready", "packet", "end"}
    assert lines[-1]["translations"]
    more = {**lines[0], "more": 1}
    assert list(validator.iter_errors(more))


def test_what_each_hop_missed_is_told() -> None:
    points = {one["hop"]: one for one in result(evidence([along(Pkt())])).points()}
    assert set(points) == {hop.name for hop in PATH}
    assert {(one["frames"], one["missed"], one["complete"]) for one in points.values()} == {
        (1, 0, True)
    }
    cut = {one["hop"]: one for one in result(evidence([along(Pkt())], cut=["vm2:eth0"])).points()}
    assert cut["vm2:eth0"]["missed"] is None
    assert cut["vm2:eth0"]["note"]


def test_packets_that_a_selection_left_out_are_no_flow_that_never_came() -> None:
    none = Trace("lab", "vm1", "vm2", FLOW, PATH, evidence([along(Pkt())]), left_out=1)
    assert none.came
    assert none.ok
    never = Trace("lab", "vm1", "vm2", FLOW, PATH, evidence([]))
    assert never.ok is None


@pytest.mark.parametrize(
    "words",
    [
        (True, "true", None, False, False),
        (False, "", 3, False, False),
        (False, "", None, True, True),
    ],
)
def test_words_that_contradict_each_other_are_told(words: tuple[Any, ...]) -> None:
    from labctl.cli.trace import _check_words

    with pytest.raises(UsageError):
        _check_words(*words)
