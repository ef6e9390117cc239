"""Observers and programs that lie or never stop: read by shape, kept within bounds, told."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_capture_session import soon, stand_in
from test_capture_stream import FRAME, WHOLE, head, record, tail
from tracing_frames import BEGIN, PATH, Pkt, hop

from labctl.capture.limits import Limits
from labctl.capture.pcapng import read as read_pcapng
from labctl.capture.pcapng import write as write_pcapng
from labctl.capture.session import Capture, Evidence
from labctl.capture.spawn import CaptureError
from labctl.errors import clean
from labctl.kinds.observers import drops
from labctl.kinds.observers.observe import MAGIC, RECORD, TRAILER
from labctl.kinds.observers.stream import StreamError, StreamParser, parse_stream
from labctl.packet.frame import parse
from labctl.sandbox import agent
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import LONGEST_WORDS, CommandError, last_lines, run
from labctl.tracing import drop_events
from labctl.tracing.drop_events import GuestDrop
from labctl.tracing.evidence import limited
from labctl.tracing.flow import Flow, Returning
from labctl.tracing.follow import follow
from labctl.tracing.packet_trace import Outcome

# --- the stream, by shape ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lie",
    [
        {"mtu": "x"},
        {"mtu": -1},
        {"mtu": 1 << 40},
        {"mtu": 1500.5},
        {"mtu": True},
        {"clock_ns": None},
        {"clock_ns": 1 << 70},
        {"snap": []},
        {"kernel": 6},
        {"kernel": "6.1\x1b[2J"},
        {"interface": "e" * 1000},
        {"hop": {}},
        {"version": {"a": [1]}},
    ],
    ids=str,
)
def test_a_header_of_the_wrong_shape_is_refused(lie: dict[str, Any]) -> None:
    with pytest.raises(StreamError, match=r"damaged header|unknown stream version"):
        parse_stream(head(**lie) + record(FRAME) + tail())


@pytest.mark.parametrize("text", [b"[" * 4000, b"3", b"[]", b'{"version":1}', b"\xff", b""])
def test_a_header_that_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(StreamError, match="damaged header"):
        parse_stream(MAGIC + struct.pack("<I", len(text)) + text)


def test_a_header_that_claims_to_be_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(StreamError, match="damaged header"):
        parse_stream(MAGIC + struct.pack("<I", 1 << 31))


COUNTS = {"packets": 2, "drops": 0, "written": 2, "errors": 0, "clock_ns": 5}
LIES: list[dict[str, Any]] = [
    {"drops": None},
    {"drops": -1},
    {"clock_ns": "5"},
    {"written": 1 << 80},
]


@pytest.mark.parametrize(
    "text", [b"[" * 4000, b"[]", b"{}", *(json.dumps(COUNTS | lie).encode() for lie in LIES)]
)
def test_a_trailer_of_the_wrong_shape_leaves_the_stream_cut(text: bytes) -> None:
    stream = parse_stream(head() + record(FRAME) + struct.pack("<BI", TRAILER, len(text)) + text)
    assert stream.cut
    assert "damaged" in stream.note
    assert len(stream.records) == 1


@given(data=st.binary(max_size=300))
def test_no_frame_that_an_observer_can_tell_of_raises_anything(data: bytes) -> None:
    body = struct.pack("<BI", RECORD, len(data)) + data
    for found in parse_stream(
        head() + body + record(data[44:], vnet=(data + bytes(10))[:10])
    ).records:
        found.classify(1500)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_stream_that_grows_is_read_as_one_that_is_whole(step: int) -> None:
    parser = StreamParser()
    for at in range(0, len(WHOLE), step):
        parser.feed(WHOLE[at : at + step])
    assert parser.stream() == parse_stream(WHOLE)


def test_frames_beyond_the_bound_are_counted_and_not_kept() -> None:
    parser = StreamParser(most=2)
    parser.feed(head() + record(FRAME) * 5 + tail())
    stream = parser.stream()
    assert (len(stream.records), stream.left_out, stream.cut) == (2, 3, False)


# --- a capture -----------------------------------------------------------------------------------


def test_a_lying_observer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"vm1:eth0 writes no stream.*damaged header"):
        Capture([stand_in("vm1:eth0", head(mtu="x"))], tmp_path, deadline=soon()).__enter__()


def test_a_hop_with_more_frames_than_are_kept_proves_nothing_by_silence(tmp_path: Path) -> None:
    point = stand_in("vm1", WHOLE[: len(head())], WHOLE[len(head()) :])
    with Capture([point], tmp_path, deadline=soon(), limits=Limits(frames=1)) as capture:
        evidence = capture.stop(soon())
    (found,) = evidence.hops
    assert (len(found.observations), found.left_out) == (1, 1)
    assert not found.complete
    assert limited(evidence) == ["vm1: only the first 1 frames were kept, 1 not"]
    write_pcapng(tmp_path / "kept.pcapng", evidence.hops)
    assert not read_pcapng(tmp_path / "kept.pcapng").hops[0].complete


def test_an_observer_that_writes_too_much_is_ended_and_its_hop_is_cut(tmp_path: Path) -> None:
    class Handle:
        def __init__(self, pid: int) -> None:
            self.pid = pid

        def poll(self) -> int | None:
            return agent.poll(self.pid)

        def finish(self, deadline: Deadline) -> int:
            return agent.finish(self.pid, deadline)

        def kill(self, number: int = 15) -> None:
            agent.kill(self.pid, number)

    def spawn(argv: Any, *, stdout: Path, stderr: Path, limit: int = 0) -> Handle:
        return Handle(agent.spawn(argv, stdout, stderr, "", False, limit))

    endless = f"b={record(FRAME)!r}; exec('while 1: o.write(b)')"
    points = [
        stand_in("vm1", head(), then=endless),
        stand_in("vm2", WHOLE[: len(head())], WHOLE[len(head()) :]),
    ]
    limits = Limits(100_000, 50)
    with Capture(points, tmp_path, deadline=soon(), spawn=spawn, limits=limits) as capture:
        deadline = soon()
        while capture._handles[0].poll() is None:
            deadline.pause(0.01)
        bad, good = capture.stop(soon()).hops
    assert (tmp_path / "00.capture").stat().st_size == 100_000
    assert bad.full
    assert bad.cut
    assert len(bad.observations) == 50
    assert "it wrote more than" in bad.note
    assert good.complete


def test_looking_at_a_capture_reads_each_byte_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[bytes] = []
    feed = StreamParser.feed

    def counting(self: StreamParser, data: bytes) -> None:
        fed.append(data)
        feed(self, data)

    monkeypatch.setattr(StreamParser, "feed", counting)
    point = stand_in("vm1", WHOLE[: len(head())], WHOLE[len(head()) :])
    with Capture([point], tmp_path, deadline=soon()) as capture:
        for _ in range(20):
            assert len(capture.fresh("vm1", 0)) == len(capture.so_far("vm1").observations)
        (found,) = capture.stop(soon()).hops
    assert b"".join(fed) == WHOLE
    assert len(found.observations) == 2


# --- what is compared with what ------------------------------------------------------------------


def test_a_flood_of_drops_is_not_compared_with_a_flood_of_packets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = range(0, 3000 * 100, 100)
    evidence = Evidence(tuple(
        hop(place.name, [(at + 5 * n, Pkt(sport=40000 + at // 100)) for at in times])
        for n, place in enumerate(PATH)
    ))  # fmt: skip
    compared = 0
    may_be = drop_events._Ended._may_be

    def counting(self: Any, drop: GuestDrop, key: int) -> bool:
        nonlocal compared
        compared += 1
        return may_be(self, drop, key)

    monkeypatch.setattr(drop_events._Ended, "_may_be", counting)
    told = [GuestDrop("vm2", BEGIN + n * 50_000, 2048, "UDP_CSUM") for n in range(6000)]
    found = follow(evidence, PATH, lambda packet: packet.protocol == "tcp", drops=told)
    assert {packet_trace.outcome for packet_trace in found} == {Outcome.ARRIVED}
    assert compared <= drop_events.MOST_DROPS * 2 * drop_events._NEAREST


def test_answers_are_told_by_both_ends_with_ports_and_fragments_without() -> None:
    flow = Flow("tcp", 22, 4, "10.0.1.1", "10.0.2.2")
    ends = frozenset(("10.0.2.2", 22, "10.0.1.1", port) for port in range(5000))
    answers = Returning(flow, ends)

    def answer(**other: Any) -> Any:
        fields: dict[str, Any] = {"src": "10.0.2.2", "dst": "10.0.1.1", "sport": 22}
        return parse(Pkt(**(fields | other)).frame())

    assert answers(answer(dport=4999))
    assert not answers(answer(dport=5000))
    assert not answers(answer(dport=4999, sport=23))
    assert not answers(answer(dport=4999, src="10.0.2.3"))
    assert answers(answer(dport=1, place=10))
    assert not answers(answer(dport=1, place=10, dst="10.0.1.9"))
    anywhere = Returning(flow, frozenset({("10.0.2.2", 22, "", None)}))
    assert anywhere(answer(dport=1, dst="10.0.7.7"))


@pytest.mark.parametrize(
    "line",
    [
        f" {'9' * 5000}.1: kfree_skb: skbaddr=0 protocol=1 location=x",
        f" 1.1: kfree_skb: skbaddr=0 protocol={'9' * 5000} location=x",
        f" 1.1: netif_receive_skb: dev=x skbaddr=0 len={'9' * 5000}",
        " 1.1: kfree_skb: skbaddr=" + "protocol=" * 20000,
    ],
    ids=["time", "protocol", "length", "repeated"],
)
def test_drops_that_no_kernel_tells_of_are_passed_over(line: str) -> None:
    assert drops.parse_drops(line) == ()


# --- what programs say ---------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["", " >&2"])
def test_a_program_that_never_stops_talking_is_ended_with_a_short_word(where: str) -> None:
    with pytest.raises(CommandError, match="said more than 97 KiB") as told:
        run(["sh", "-c", f"exec yes '\x1b[31mred'{where}"], deadline=soon(), most=100_000)
    assert len(told.value.message) < 3 * LONGEST_WORDS
    assert "\x1b" not in told.value.message.partition(" said ")[2]


def test_a_program_may_say_as_much_as_the_bound() -> None:
    done = run([sys.executable, "-c", "print('x' * 99)"], deadline=soon(), most=100)
    assert len(done.stdout) == 100


def test_input_larger_than_a_pipe_goes_in_while_output_comes_out() -> None:
    data = bytes(range(256)) * 4096
    done = run(["cat"], deadline=soon(), stdin=data[:128] * 8192)
    assert len(done.stdout) == 128 * 8192
    assert run(["true"], deadline=soon(), stdin=data).ok


def test_a_program_of_the_agent_fills_its_files_to_the_bound_and_no_more(tmp_path: Path) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    pid = agent.spawn(["sh", "-c", "yes >&2"], out, err, "", False, 5000)
    deadline = soon()
    while agent.poll(pid) is None:
        deadline.pause(0.01)
    agent.finish(pid, soon())
    assert (out.stat().st_size, err.stat().st_size) == (0, 5000)


def test_quoted_words_are_clean_and_short() -> None:
    said = last_lines("\x1b]0;owned\x07 fine\n" + "y" * 10_000_000)
    assert "\x1b" not in said
    assert len(said) < 2 * LONGEST_WORDS
    assert last_lines("a\x9b2Jb\n", 1) == r"a\x9b2Jb"


@given(text=st.text(alphabet=st.characters(), max_size=50))
def test_clean_text_has_nothing_that_acts_and_stays_as_it_is(text: str) -> None:
    shown = clean(text)
    assert all(one in "\n\t" or one.isprintable() or ord(one) > 0x9F for one in shown)
    assert clean(shown) == shown
    shown.encode()


def test_newlines_tabs_and_letters_of_all_languages_stay() -> None:
    text = "a\tb\n→ grüße 日本 ✓"
    assert clean(text) == text
    assert clean("\x1b[2J\r\x07\u202e\udc80") == r"\x1b[2J\x0d\x07\u202e\udc80"
