"""Steps on a console: what is waited for, what is typed, and how little a guest can do about it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.errors import GuestError
from labctl.guests import console_steps
from labctl.guests.console_steps import LONGEST_LINE, Reader, Step, matched


class Line:
    """A console: a socket that takes what is typed, and a log of what is said."""

    def __init__(self, folder: Path) -> None:
        self.place, self.log = folder / "r1.sock", folder / "r1.log"
        self.log.touch()
        self.typed = b""
        self.answers: dict[bytes, str] = {}
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self.place))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def say(self, text: str) -> None:
        with self.log.open("ab") as file:
            file.write(text.encode())

    def _serve(self) -> None:
        there, _ = self._socket.accept()
        with there:
            while data := there.recv(4096):
                self.typed += data
                for word, answer in self.answers.items():
                    if self.typed.endswith(word):
                        self.say(answer)

    def close(self) -> None:
        self._socket.close()

    def run(self, *steps: Step) -> list[str]:
        told: list[str] = []
        console_steps.run("r1", steps, self.place, self.log, lambda: None, told.append)
        return told


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with closing(Line(tmp_path)) as one:
        yield one


def test_each_step_waits_for_its_text_and_types_its_line(line: Line) -> None:
    line.answers = {b"admin\r": "admin\r\nPassword: ", b"secret\r": "\r\n\x1b[1mr1\x1b[0m# "}
    line.say("booting\r\nr1 login: ")
    told = line.run(
        Step("login:", "admin", 9), Step("Password:", "secret", 9), Step("r1#", None, 9)
    )
    assert line.typed == b"admin\rsecret\r"
    assert told[0] == "waiting for 'login:' on its console (step 1 of 3)"
    assert not any("secret" in one or "admin" in one for one in told)


def test_what_was_waited_for_once_is_not_taken_twice(line: Line) -> None:
    line.say("# ")
    with pytest.raises(GuestError, match=r"did not say '#' in 0.1 s \(step 2 of 2\)"):
        line.run(Step("#", "a", 9), Step("#", "b", 0.1))
    assert line.typed in (b"", b"a\r")


def test_two_prompts_in_one_line_are_two(line: Line) -> None:
    line.say("# #")
    line.run(Step("#", None, 9), Step("#", None, 9))


def test_what_did_not_come_is_told_with_the_last_lines_clean(line: Line) -> None:
    line.say("line\r\n\x1b]0;title\x07evil\r\n")
    with pytest.raises(GuestError) as raised:
        line.run(Step("login:", "x", 0.05))
    assert "evil" in raised.value.detail
    assert "\x1b" not in raised.value.detail
    assert raised.value.hint


def test_a_guest_that_ends_is_told_as_that(line: Line) -> None:
    def ended() -> None:
        raise GuestError("r1 died")

    with pytest.raises(GuestError, match="r1 died"):
        console_steps.run(
            "r1", [Step("x", None, 99)], line.place, line.log, ended, lambda _words: None
        )


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("login:", "r1 login: ", True),
        ("login:", "Login:", False),
        ("admin@*$", "admin@r1:~$ ", True),
        ("admin@*$", "$ admin@r1", False),
        ("a*b*c", "xxaxxbxxcxx", True),
        ("a*b*c", "cba", False),
        ("(a+)+$", "aaaa", False),
    ],
)
def test_a_star_stands_for_anything_in_a_line_and_nothing_else_is_special(
    pattern: str, text: str, fits: bool
) -> None:
    assert (matched(pattern, text) >= 0) is fits


def test_a_star_does_not_reach_into_another_line(line: Line) -> None:
    line.say("admin@\n$")
    assert not Reader(line.log).find("admin@*$")


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_nothing_that_a_guest_says_does_harm(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    log = tmp_path_factory.mktemp("log") / "r1.log"
    log.touch()
    reader = Reader(log)
    for piece in pieces:
        with log.open("ab") as file:
            file.write(piece)
        reader.find("never said * by anybody")


def test_a_line_without_end_is_not_kept(line: Line) -> None:
    line.say("x" * 100 * LONGEST_LINE)
    reader = Reader(line.log)
    for _ in range(10):
        assert not reader.find("login:")
    assert len(reader._line) <= LONGEST_LINE
    line.say(" login:")
    assert reader.find("login:")
