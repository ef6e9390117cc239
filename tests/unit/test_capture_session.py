"""The capture session with stand-ins for observers: readiness, ends, and what is kept."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_capture_stream import FRAME, WHOLE, head, record

from labctl.capture.point import Point, host_point
from labctl.capture.session import Capture
from labctl.capture.spawn import CaptureError, Handle, start_process
from labctl.errors import DeadlineError
from labctl.kinds.observers.packet_socket import guest_script
from labctl.sandbox.deadline import Deadline


def stand_in(hop: str, first: bytes, last: bytes = b"", then: str = "sys.stdin.read()") -> Point:
    code = (
        f"import sys; o=sys.stdout.buffer; o.write({first!r}); o.flush(); {then}; o.write({last!r})"
    )
    return Point(hop, (sys.executable, "-I", "-S", "-c", code))


def soon() -> Deadline:
    return Deadline(10, "capture")


def test_evidence_comes_in_the_order_of_the_points(tmp_path: Path) -> None:
    cut = len(head()) + len(record(FRAME))
    points = [
        stand_in("b", WHOLE[: len(head())], WHOLE[len(head()) :]),
        stand_in("a", WHOLE[: len(head())], WHOLE[len(head()) : cut + 3]),
    ]
    with Capture(points, tmp_path, deadline=soon()) as capture:
        evidence = capture.stop(soon())
    assert [hop.hop for hop in evidence.hops] == ["b", "a"]
    assert evidence["b"].complete
    assert evidence["b"].drops == 0
    assert evidence["b"].clock_offset_ns is not None
    assert [hop.hop for hop in evidence.hops if hop.cut] == ["a"]
    assert evidence["a"].drops is None
    assert len(evidence["a"].observations) == 1
    assert "within a block" in evidence["a"].note
    assert len(list(evidence.observations())) == 3
    with pytest.raises(KeyError):
        evidence["c"]
    with pytest.raises(CaptureError, match="not running"):
        capture.stop(soon())


def test_an_observer_that_ends_before_it_is_ready_is_told_with_its_words(tmp_path: Path) -> None:
    points = [
        stand_in("fine", WHOLE),
        Point("vm1", (sys.executable, "-c", "import sys; sys.exit('perl: not found')")),
    ]
    with pytest.raises(CaptureError, match="cannot observe at vm1: perl: not found"):
        Capture(points, tmp_path, deadline=soon()).__enter__()


def test_an_observer_that_says_something_else_is_told(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="vm1 writes no stream"):
        Capture([stand_in("vm1", b"Welcome to vm1")], tmp_path, deadline=soon()).__enter__()


def test_a_program_that_cannot_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="cannot start /nonexistent/ssh"):
        Capture([Point("vm1", ("/nonexistent/ssh",))], tmp_path, deadline=soon()).__enter__()


def test_one_that_never_gets_ready_is_named_by_the_deadline(tmp_path: Path) -> None:
    points = [stand_in("ready", WHOLE), stand_in("slow", WHOLE[:20])]
    with pytest.raises(DeadlineError, match="no observer ready at slow"):
        Capture(points, tmp_path, deadline=Deadline(0.5, "capture")).__enter__()


def test_one_that_does_not_end_is_killed_and_its_hop_is_cut(tmp_path: Path) -> None:
    point = stand_in("stuck", head() + record(FRAME), then="import time; time.sleep(600)")
    with Capture([point], tmp_path, deadline=soon()) as capture:
        (hop,) = capture.stop(Deadline(0.3, "stopping the capture")).hops
    assert hop.cut
    assert len(hop.observations) == 1
    assert "did not end" in hop.note


def test_it_is_known_which_observers_still_ran_when_they_were_asked_to_end(tmp_path: Path) -> None:
    end = WHOLE[len(head()) :]
    points = [stand_in("a", WHOLE[: len(head())], end), stand_in("b", WHOLE, then="sys.exit()")]
    with Capture(points, tmp_path, deadline=soon()) as capture:
        deadline = soon()
        while capture._handles[1].poll() is None:
            deadline.pause(0.01)
        before = time.time_ns()
        evidence = capture.stop(soon())
    assert before <= (evidence["a"].asked_ns or 0) <= time.time_ns()
    assert evidence["b"].asked_ns is None
    assert evidence["b"].complete


def test_no_hop_is_whole_where_our_clock_was_set_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = WHOLE[len(head()) :]
    for seconds, whole in ((0, True), (3600, False), (-86400, False)):
        with Capture([stand_in("a", WHOLE[: len(head())], end)], tmp_path, deadline=soon()) as one:
            now = time.time_ns
            with monkeypatch.context() as patch:
                patch.setattr(time, "time_ns", lambda now=now, by=seconds: now() + by * 10**9)
                (hop,) = one.stop(soon()).hops
        assert hop.complete == whole
        assert len(hop.observations) == 2
        assert whole or f"clock was set by {seconds:+d}.0 s" in hop.note


def test_one_killed_on_the_way_leaves_a_cut_hop(tmp_path: Path) -> None:
    point = stand_in("gone", head() + record(FRAME), then="sys.exit('Connection closed')")
    with Capture([point], tmp_path, deadline=soon()) as capture:
        (hop,) = capture.stop(soon()).hops
    assert hop.cut
    assert len(hop.observations) == 1
    assert "exited with 1" in hop.note
    assert "Connection closed" in hop.note


def test_an_old_stream_in_the_directory_proves_nothing(tmp_path: Path) -> None:
    def append(argv: Sequence[str], *, stdout: Path, stderr: Path, limit: int = 0) -> Handle:
        old = stdout.read_bytes() if stdout.exists() else b""
        handle = start_process(argv, stdout=stdout, stderr=stderr, limit=limit)
        stdout.write_bytes(old)
        return handle

    (tmp_path / "00.capture").write_bytes(WHOLE)
    capture = Capture(
        [stand_in("vm1", b"")], tmp_path, deadline=Deadline(0.3, "capture"), spawn=append
    )
    with pytest.raises(DeadlineError):
        capture.__enter__()


def test_two_points_cannot_share_a_name(tmp_path: Path) -> None:
    points = [host_point("x", "eth0"), host_point("x", "eth1")]
    with pytest.raises(CaptureError, match="share a name"):
        Capture(points, tmp_path, deadline=soon())


def test_the_guest_script_fits_the_command_of_a_small_ssh_server() -> None:
    assert len(guest_script()) < 6000  # dropbear's default bound is 9000 with its quoting
    assert "labctl" in guest_script()
