"""Join this terminal to a guest's serial console."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import socket
import subprocess
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from labctl.errors import GuestError

LEAVE = b"\x1d"
"""Ctrl-], as telnet(1), virsh(1) and xl(1) have it."""
LEAVE_SECONDS = 5.0


@contextlib.contextmanager
def socket_at(path: Path, node: str) -> Iterator[socket.socket]:
    """Join a console that is a UNIX socket.

    Raises `GuestError` when nobody listens there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        try:
            line.connect(str(path))
        except OSError:
            raise _silent(node) from None
        yield line


@contextlib.contextmanager
def program(words: Sequence[str], joined: bytes, node: str) -> Iterator[socket.socket]:
    """Join a console through a program, whose first words end with `joined`.

    Raises `GuestError` when it ends before.
    """
    line, theirs = socket.socketpair()
    with line:
        with theirs:
            end = theirs.fileno()
            child = subprocess.Popen(words, stdin=end, stdout=end, start_new_session=True)
        try:
            said = line.recv(1)
            while said and said != joined:
                said = line.recv(1)
            if not said:
                raise _silent(node)
            yield line
        finally:
            _end(child, line)


def _end(child: subprocess.Popen[bytes], line: socket.socket) -> None:
    """End a program by the key that ends it: killed here, its other end would go on for a while."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        line.sendall(LEAVE)
        child.wait(LEAVE_SECONDS)
    child.kill()
    child.wait()


def _silent(node: str) -> GuestError:
    return GuestError(
        f"the console of {node} does not answer: the guest has ended",
        f"read what it said last: labctl logs {node}",
    )


def talk(line: socket.socket, node: str) -> None:
    """Pass bytes both ways until Ctrl-], end of input, or the guest's end."""
    keyboard = sys.stdin.fileno()
    if not os.isatty(keyboard):
        _relay(line, keyboard)
        return
    before = termios.tcgetattr(keyboard)
    try:
        tty.setraw(keyboard)  # this forgets what has been typed: the invitation comes after it
        click.echo(f"console of {node}; leave with Ctrl-]\r", err=True)
        _relay(line, keyboard)
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        click.echo("", err=True)


def _relay(line: socket.socket, keyboard: int) -> None:
    # A person at a terminal wants the guest's own screen; a pipe or a log wants its words.
    raw = os.isatty(keyboard) and os.isatty(sys.stdout.fileno())
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    sources: list[int] = [line.fileno(), keyboard]
    while True:
        readable, _, _ = select.select(sources, [], [], None if keyboard in sources else 2.0)
        if not readable:
            return  # input has ended and the console has said what it had to say
        if line.fileno() in readable:
            said = line.recv(4096)
            if not said:
                return
            if raw:
                os.write(sys.stdout.fileno(), said)
            else:
                sys.stdout.write(decoder.decode(said).replace("\r", ""))
                sys.stdout.flush()
        if keyboard in readable:
            typed = os.read(keyboard, 4096)
            if not typed:
                sources.remove(keyboard)
                continue
            if LEAVE in typed:
                return
            line.sendall(typed)
