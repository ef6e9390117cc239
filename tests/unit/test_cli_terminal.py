"""A console joined to a terminal or a pipe: whatever the guest does, it ends, and can be left."""

from __future__ import annotations

import os
import pty
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.cli import terminal
from labctl.errors import GuestError


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a console: labctl's and the guest's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def typing(monkeypatch: pytest.MonkeyPatch, keyboard: int) -> None:
    file = os.fdopen(keyboard, "r")
    monkeypatch.setattr(sys, "stdin", file)


def piped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "input").write_bytes(data)
    typing(monkeypatch, os.open(tmp_path / "input", os.O_RDONLY))


def test_what_is_piped_reaches_a_guest_that_takes_its_time(
    line: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = bytes(range(32, 127)) * 20_000
    piped(monkeypatch, tmp_path, words)
    ours, theirs = line
    talking = threading.Thread(target=terminal.talk, args=(ours, "vm1"))
    talking.start()
    got = b""
    while len(got) < len(words):
        got += theirs.recv(5000)
    theirs.shutdown(socket.SHUT_RDWR)
    talking.join()
    assert got == words


def test_a_guest_that_takes_nothing_holds_no_pipe_up_for_ever(
    line: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(terminal, "STUCK_SECONDS", 0.1)
    piped(monkeypatch, tmp_path, b"x" * 10_000_000)
    with pytest.raises(GuestError, match="the console of vm1 takes no more input"):
        terminal.talk(line[0], "vm1")


def test_a_guest_that_takes_nothing_can_be_left(
    line: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a terminal in raw mode no Ctrl-C ends labctl: it must hear of Ctrl-] itself."""
    keyboard, screen = pty.openpty()
    typing(monkeypatch, screen)
    ours, theirs = line
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    joined = threading.Event()
    monkeypatch.setattr("click.echo", lambda *_, **__: joined.set())
    talking = threading.Thread(target=terminal.talk, args=(ours, "vm1"))
    talking.start()
    try:
        assert joined.wait(60)
        for _ in range(100):
            os.write(keyboard, b"x" * 1000)
        os.write(keyboard, terminal.LEAVE)
        talking.join(60)
        assert not talking.is_alive()
    finally:
        theirs.close()
        talking.join()
        os.close(keyboard)


def test_a_guest_that_ends_with_something_unread_ends_the_talk(
    line: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    piped(monkeypatch, tmp_path, b"x" * 10_000_000)
    ours, theirs = line
    talking = threading.Thread(target=terminal.talk, args=(ours, "vm1"))
    talking.start()
    theirs.recv(1)
    theirs.close()  # the kernel resets the pair
    talking.join(60)
    assert not talking.is_alive()
