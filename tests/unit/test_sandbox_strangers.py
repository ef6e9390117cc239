"""What an agent that is not labctl's may answer: whatever it is, it is one clear error."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from labctl.backends import dom0
from labctl.errors import DeadlineError, LabctlError
from labctl.sandbox import agent, codec, framing
from labctl.sandbox.base import Sandbox
from labctl.sandbox.client import Agent, Other
from labctl.sandbox.framing import MARK, MOST
from labctl.sandbox.process import Result
from labctl.sandbox.remote import Reply

FAKE = "import sys; sys.stdin.buffer.read(1); sys.stdout.buffer.write({!r}); sys.stdout.flush()"
"""A program that answers the first request, whatever it is."""
WHO = Other("dom0 of xen1", "look at its python3", 20.0)


def frame(data: bytes) -> bytes:
    return struct.pack(">4sI", MARK, len(data)) + data


def reply(**fields: object) -> bytes:
    return frame(json.dumps({"number": 0} | fields).encode())


class Nobody:
    """Stands for the process of an agent that is a thread."""

    pid = 0
    returncode = 0

    def wait(self, _timeout: float | None = None) -> int:
        return 0

    def kill(self) -> None:
        pass


@contextmanager
def stranger(
    said: bytes, who: Other = WHO, *, ends: bool = False, requests: int = 1
) -> Iterator[Agent]:
    """Answer the first requests with these bytes, whatever they are; then stay, or end."""
    ours, theirs = socket.socketpair()

    def answer() -> None:
        with theirs, contextlib.suppress(OSError, EOFError):
            line = framing.Line(theirs.fileno(), theirs.fileno())
            for _ in range(requests):
                line.receive()
            theirs.sendall(said)
            while not ends and theirs.recv(1 << 16):
                pass

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    started = Agent(Nobody(), ours, other=who)  # type: ignore[arg-type]
    try:
        yield started
    finally:
        started.close()
        thread.join()


def told(said: bytes) -> LabctlError:
    """Return the error that a call raises which is answered with these bytes."""
    with stranger(said) as line, pytest.raises(LabctlError) as raised:
        line.call(agent.poll, 1)
    assert "\n" not in raised.value.message
    return raised.value


def malicious(file: Path) -> bytes:
    """Return a pickle, of protocol 0, that makes a file where it is loaded."""
    return b"cos\nsystem\n(S'touch " + str(file).encode() + b"'\ntR."


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda data: data,
        lambda data: struct.pack("!i", len(data)) + data,  # as multiprocessing sends it
        frame,
        lambda data: reply(value=data.decode()),
    ],
)
def test_a_pickle_for_an_answer_makes_nothing_and_names_the_host(
    wrapped: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    error = told(wrapped(malicious(tmp_path / "made")))
    assert not (tmp_path / "made").exists()
    assert error.message.startswith("dom0 of xen1 ")
    assert error.hint == "look at its python3"


def test_a_dom0_whose_python_answers_with_a_pickle_makes_nothing(tmp_path: Path) -> None:
    """All of the way that a dom0's agent is started, with a host in place of ssh's."""
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    pickle = malicious(tmp_path / "made")
    pickle = struct.pack("!i", len(pickle)) + pickle  # as multiprocessing sends it
    python.write_text(f"#!{sys.executable} -IS\n{FAKE.format(pickle)}; sys.stdin.buffer.read()\n")
    python.chmod(0o700)

    class Here(Sandbox):
        lives = True
        enter = keep = end = process = lambda *_: []  # type: ignore[assignment]

    class Fake(dom0.Dom0):
        def _ssh(self) -> list[str]:
            return ["env", f"PATH={python.parent}:/usr/bin:/bin", "sh", "-c"]

        def _run(self, *_: object) -> Result:
            return Result((), 0, "", "")

    place = Fake(Here(tmp_path), "xen1", lambda: None, tmp_path)
    try:
        with pytest.raises(LabctlError, match=r"^dom0 of xen1 does not answer") as raised:
            place.call(agent.poll, 1)
        with pytest.raises(LabctlError, match="dom0 of xen1"):
            place.call(agent.poll, 1)
    finally:
        place.close()
    assert "\n" not in raised.value.message
    assert "python3" in raised.value.hint
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"Traceback (most recent call last)", "begins with"),
        (MARK + b"\xff\xff\xff\xff", "more than"),
        (frame(b"\xff"), "no JSON"),
        (frame(b'{"number": 0'), "no JSON"),
        (frame(b"[" * 200_000), "too much in each other"),
        (frame(b"[" + b"[]," * 2_000_000 + b"0]"), "more than 1000000 values"),
        (frame(b"7"), "a table (Reply) should stand here"),
        (frame(b"{}"), "number: is missing"),
        (reply(surprise=1), "surprise: is unknown in Reply"),
        (reply(number="0"), "number: a whole number"),
        (reply(number=10**400), "number: the number is too large"),
        (reply(event={"stage": "a"}), "event."),
        (reply(error={"kind": "x"}), "error."),
    ],
)
def test_what_is_no_answer_ends_the_line_and_says_why(said: bytes, why: str) -> None:
    with stranger(said) as line:
        with pytest.raises(LabctlError) as raised:
            line.call(agent.poll, 1)
        assert "does not answer as an agent of labctl does" in raised.value.message
        assert why in raised.value.message
        assert raised.value.hint == WHO.hint
        with pytest.raises(LabctlError, match="does not answer as an agent"):
            line.call(agent.poll, 1)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"value": "x"}, "a whole number should stand here"),
        ({"value": 1.5}, "a whole number should stand here"),
        ({"value": True}, "a whole number should stand here"),
        ({"value": [1]}, "a whole number should stand here"),
        ({"error": {"kind": "SystemExit", "message": "", "hint": "", "detail": ""}}, "kind: "),
        ({"error": {"kind": "os.system", "message": "", "hint": "", "detail": ""}}, "kind: "),
    ],
)
def test_an_answer_of_another_type_fails_its_call_alone(
    fields: dict[str, object], why: str
) -> None:
    after = reply(number=1, value=None)
    with stranger(reply(**fields) + after, requests=2) as line:
        first = line.begin(agent.poll, 1)
        second = line.begin(agent.poll, 1)
        error = first.exception(20)
        assert isinstance(error, LabctlError)
        assert "dom0 of xen1 answered labctl.sandbox.agent:poll with what is no answer" in str(
            error
        )
        assert why in str(error)
        assert second.result(20) is None


def test_an_answer_that_nobody_asked_for_is_dropped() -> None:
    with stranger(reply(number=7, value="x") + reply(value=3)) as line:
        assert line.call(agent.poll, 1) == 3


def test_a_frame_that_ends_early_is_told() -> None:
    with stranger(frame(b"1234567")[:-2], ends=True) as line, pytest.raises(LabctlError) as raised:
        line.call(agent.poll, 1)
    assert "it ends after 5 of 7 bytes" in raised.value.message


def test_one_that_never_answers_is_given_up() -> None:
    with stranger(b"", WHO._replace(patience=0.1)) as line:
        with pytest.raises(DeadlineError, match=r"dom0 of xen1 did not answer for 0\.1 s"):
            line.call(agent.poll, 1)
        with pytest.raises(LabctlError, match="dom0 of xen1 did not answer"):
            line.call(agent.poll, 1)


def test_an_errors_words_are_cut_and_one_line() -> None:
    words = {"kind": "GuestError", "message": "a\nb\x1b" + "c" * 10**6, "hint": "", "detail": ""}
    with stranger(reply(error=words)) as line, pytest.raises(LabctlError) as raised:
        line.call(agent.poll, 1)
    assert raised.value.message.startswith("a b\\x1bc")
    assert len(raised.value.message) < 10_000


# --- anything at all ----------------------------------------------------------------------------

QUICK = settings(max_examples=100, deadline=None)
PLAIN = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=5),
    lambda inner: (
        some.lists(inner, max_size=4)
        | some.dictionaries(
            some.sampled_from(["number", "value", "error", "event", "kind", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def received(data: bytes) -> list[object]:
    """Read frames of replies until their end; the errors of this are the only ones."""
    found: list[object] = []
    with os.fdopen(os.memfd_create("line"), "r+b", buffering=0) as stream:
        stream.write(data)
        stream.seek(0)
        line = framing.Line(stream.fileno(), stream.fileno())
        try:
            while True:
                found.append(codec.loads(line.receive(), Reply))
        except EOFError:
            return found
        except (framing.FrameError, codec.CodecError) as wrong:
            words = str(wrong)
    assert "\n" not in words
    assert len(words) < 400
    return found


@QUICK
@given(some.binary(max_size=64))
def test_any_bytes_are_no_frame(data: bytes) -> None:
    assert received(data) == []
    assert received(MARK + data) == []
    assert received(frame(data)) == []


@QUICK
@given(PLAIN)
def test_any_json_is_a_reply_or_one_error(plain: object) -> None:
    for one in received(frame(json.dumps(plain).encode())):
        assert isinstance(one, Reply)
        assert isinstance(one.number, int)


@QUICK
@given(some.integers(0, (1 << 32) - 1), some.binary(max_size=20))
def test_any_length_takes_no_more_than_what_has_come(length: int, data: bytes) -> None:
    assert received(struct.pack(">4sI", MARK, length) + data) == []


def test_a_frame_has_a_greatest_length(tmp_path: Path) -> None:
    with (tmp_path / "line").open("wb") as stream, pytest.raises(framing.FrameError):
        framing.Line(0, stream.fileno()).send(bytes(MOST + 1))
    assert (tmp_path / "line").read_bytes() == b""
