"""A live capture: frames passed on as they come, bounded, and ended cleanly whatever ends it."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_capture_pcapng import hops
from test_capture_session import soon, stand_in
from test_capture_stream import FRAME, head, record, tail

from labctl.capture import live_pcapng, pcapng
from labctl.capture.limits import Limits
from labctl.capture.live import Seen, Sink, SinkError, Wanted, pass_on
from labctl.capture.live_pcapng import PcapngSink
from labctl.capture.pcapng_writer import begun
from labctl.capture.session import Capture, Evidence, Observation
from labctl.capture.spawn import Handle, start_process
from labctl.errors import GuestError
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.holes import held

pytestmark = pytest.mark.filterwarnings("ignore:Field type should not be:DeprecationWarning")


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self, room: int = 1000) -> None:
        self.frames: list[Observation] = []
        self.ended: Seen | None = None
        self._room = room

    def frame(self, seen: Observation) -> bool:
        if len(self.frames) >= self._room:
            return False
        self.frames.append(seen)
        return True

    def flush(self) -> None:
        """Nothing waits."""

    def end(self, _evidence: Evidence, seen: Seen) -> None:
        self.ended = seen


def go(
    tmp_path: Path,
    sink: Sink,
    wanted: Wanted | None = None,
    *,
    frames: bytes = record(FRAME) * 3,
    then: str = "sys.stdin.read()",
    last: bytes = tail(),
    stopping: Callable[[], bool] = lambda: False,
    folder: Path | None = None,
) -> tuple[Evidence, Seen, list[str]]:
    """Capture at two hops, which have seen the same frames when they are ready."""
    told: list[str] = []
    points = [stand_in(hop, head(hop=hop) + frames, last, then) for hop in ("a", "b")]
    with Capture(points, tmp_path / "streams", deadline=soon()) as capture:
        evidence, seen = pass_on(
            capture, ["a", "b"], sink, wanted or Wanted(),
            folder=folder or tmp_path, stopping=stopping, tell=told.append,
        )  # fmt: skip
    return evidence, seen, told


def after(looks: int) -> Callable[[], bool]:
    """Stop after so many looks."""
    count = itertools.count()
    return lambda: next(count) >= looks


def test_frames_of_all_hops_are_passed_on_until_it_is_to_stop(tmp_path: Path) -> None:
    sink = Kept()
    evidence, seen, _ = go(tmp_path, sink, stopping=after(3))
    assert Counter(one.hop for one in sink.frames) == {"a": 3, "b": 3}
    assert seen.frames == {"a": 3, "b": 3}
    assert sink.ended is seen
    assert [hop.trailer is not None for hop in evidence.hops] == [True, True]
    assert not any(hop.observations for hop in evidence.hops)


def test_what_came_last_is_passed_on_too(tmp_path: Path) -> None:
    sink = Kept()
    go(tmp_path, sink, stopping=after(1), last=record(FRAME) + tail())
    assert len(sink.frames) == 8


def test_a_count_ends_it_and_no_frame_more_is_passed_on(tmp_path: Path) -> None:
    sink = Kept()
    _, seen, _ = go(tmp_path, sink, Wanted(count=4))
    assert len(sink.frames) == seen.total == 4


def test_time_ends_it(tmp_path: Path) -> None:
    sink = Kept()
    go(tmp_path, sink, Wanted(until=Deadline(0.2, "the capture")))
    assert len(sink.frames) == 6


def test_what_a_filter_leaves_out_is_counted(tmp_path: Path) -> None:
    sink = Kept()
    _, seen, _ = go(tmp_path, sink, Wanted(lambda one: one.hop == "a"), stopping=after(3))
    assert {one.hop for one in sink.frames} == {"a"}
    assert seen.filtered == {"b": 3}


def test_frames_that_find_no_room_are_counted_as_missed(tmp_path: Path) -> None:
    sink = Kept(room=4)
    _, seen, _ = go(tmp_path, sink, stopping=after(3))
    assert (seen.total, seen.missed.total()) == (4, 2)


def test_observers_that_end_by_themselves_are_told_and_end_it(tmp_path: Path) -> None:
    then = "sys.exit('the cat bit through the cable')"
    _, seen, told = go(tmp_path, Kept(), then=then, last=b"")
    assert set(seen.ended) == {"a", "b"}
    assert "the capture at a has ended: the cat bit through the cable" in told
    assert seen.frames == {"a": 3, "b": 3}


def test_a_guest_that_ends_takes_its_own_hop_alone(tmp_path: Path) -> None:
    class Gone:
        """The observer in a guest that has ended: whoever asks for it is told so."""

        ended = False

        def __init__(self, inner: Handle) -> None:
            self.inner = inner

        def poll(self) -> int | None:
            if Gone.ended:
                raise GuestError("vm1 has ended: it powered itself off")
            return None

        def finish(self, deadline: Deadline) -> int:
            return self.inner.finish(deadline)

        def kill(self, number: int = 15) -> None:
            self.inner.kill(number)

    def spawn(argv: Sequence[str], **more: Any) -> Handle:
        handle = start_process(argv, **more)
        return Gone(handle) if "vm1" in argv[-1] else handle

    points = [stand_in(hop, head(hop=hop) + record(FRAME), tail()) for hop in ("vm1", "tap")]
    with Capture(points, tmp_path / "s", deadline=soon(), spawn=spawn) as capture:
        assert capture.ended() == {}
        Gone.ended = True
        assert capture.ended() == {"vm1": "vm1 has ended: it powered itself off"}
        assert capture.stop(soon())["tap"].complete


def test_a_lab_that_goes_down_ends_it(tmp_path: Path) -> None:
    sink = Kept()
    _, seen, told = go(tmp_path, sink, folder=tmp_path / "gone")
    assert told == ["the lab went down meanwhile"]
    assert set(seen.ended) == {"a", "b"}
    assert len(sink.frames) == 6


def test_frames_come_in_the_order_of_their_times_whichever_hop_is_looked_at_first() -> None:
    from labctl.capture.live import _Order

    def at(time_ns: int) -> Observation:
        one = hops()[0].observations[0]
        return replace(one, record=replace(one.record, time_ns=time_ns))

    order = _Order()
    passed = [*order.passed([at(1), at(5)]), *order.passed([at(3), at(7)]), *order.passed([])]
    assert [one.time_ns for one in passed] == [1, 3, 5, 7]


def test_what_was_passed_on_fills_neither_memory_nor_file(tmp_path: Path) -> None:
    big = record(b"\2" * 12 + b"\x88\xb5" + b"x" * 60_000)
    then = f"o.write({big!r} * 100); o.flush(); sys.stdin.read()"
    point = stand_in("a", head(hop="a"), tail(), then)
    with Capture([point], tmp_path, deadline=soon(), limits=Limits(1 << 30, 1 << 30)) as capture:
        came, deadline = 0, soon()
        while came < 100:
            came += len(capture.take("a", 1 << 20))
            deadline.check()
        with (tmp_path / "00.capture").open("rb") as file:
            assert os.fstat(file.fileno()).st_size > 5 << 20
            assert held(file.fileno()) <= 2 << 20
        (hop,) = capture.stop(soon()).hops
    assert hop.trailer is not None
    assert hop.observations == ()


# --- pcapng -------------------------------------------------------------------------------------


def described() -> list[tuple[str, str]]:
    return [(hop.hop, begun(hop.header, 77)) for hop in hops() if hop.header]


def seen_of(*frames: Observation) -> Seen:
    return Seen(Counter(one.hop for one in frames))


def test_a_live_file_is_read_back_as_any_capture_is(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    first, second = hops()
    with path.open("wb", buffering=0) as file:
        sink = PcapngSink(file.fileno(), described(), "tcp port 22")
        for hop in (first, second):
            for one in hop.observations:
                assert sink.frame(one)
        sink.flush()
        assert [len(hop.observations) for hop in pcapng.read(path).hops] == [1, 1]  # readable now
        bare = Evidence((replace(first, observations=()), replace(second, observations=())))
        sink.end(bare, seen_of(*first.observations, *second.observations))
    after = pcapng.read(path)
    assert [hop.observations[0].judgement for hop in after.hops] == [
        hop.observations[0].judgement for hop in (first, second)
    ]
    assert after["vm1"].complete
    assert after["vm1"].header == replace(first.header, ifindex=0, snap=0, observer="")  # type: ignore[type-var]
    assert after["vm1"].arrived_ns == 77
    assert after["tap vm2"].cut  # its observer was killed: how it ended is not known


def test_frames_that_were_missed_make_a_live_file_incomplete(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    first, _ = hops()
    with path.open("wb", buffering=0) as file:
        sink = PcapngSink(file.fileno(), described())
        seen = Seen(Counter({"vm1": 0}), missed=Counter({"vm1": 5}))
        sink.end(Evidence((replace(first, observations=()),)), seen)
    assert not pcapng.read(path)["vm1"].complete
    assert pcapng.read(path)["vm1"].left_out == 5


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def test_a_reader_that_does_not_read_makes_nobody_wait(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_pcapng, "MOST_WAITING", 1 << 18)
    sink = PcapngSink(pipe[1], described())
    one = hops()[0].observations[0]
    took = 0
    for _ in range(10_000):
        took += sink.frame(one)
        sink.flush()
    assert 0 < took < 10_000


def test_a_reader_gets_whole_blocks_to_the_end(pipe: tuple[int, int], tmp_path: Path) -> None:
    sink = PcapngSink(pipe[1], described())
    first, _ = hops()
    for _ in range(1000):
        assert sink.frame(first.observations[0])

    def end() -> None:
        sink.end(Evidence((replace(first, observations=()),)), Seen(Counter({"vm1": 1000})))
        os.close(pipe[1])

    writing = threading.Thread(target=end)
    writing.start()
    with open(pipe[0], "rb", closefd=False) as file:
        (tmp_path / "x").write_bytes(file.read())
    writing.join()
    assert len(pcapng.read(tmp_path / "x")["vm1"].observations) == 1000


def test_a_reader_that_is_gone_is_noticed_though_nothing_comes(pipe: tuple[int, int]) -> None:
    sink = PcapngSink(pipe[1], described())
    sink.flush()
    os.close(pipe[0])
    with pytest.raises(BrokenPipeError):
        sink.flush()


def test_a_full_disk_leaves_whole_blocks_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    with path.open("wb", buffering=0) as file:
        sink = PcapngSink(file.fileno(), described())
        sink.flush()
        whole = path.read_bytes()
        sink.frame(hops()[0].observations[0])
        write = os.write

        def full(descriptor: int, data: Any) -> int:
            monkeypatch.setattr(os, "write", refuse)
            return write(descriptor, data[:10])

        def refuse(_descriptor: int, _data: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(SinkError, match="No space left"):
            sink.flush()
    assert path.read_bytes() == whole
