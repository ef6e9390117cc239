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
import time
import tty
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from labctl.errors import GuestError

LEAVE = b"\x1d"
"""Ctrl-], as telnet(1), virsh(1) and xl(1) have it."""
LEAVE_SECONDS = 5.0
STUCK_SECONDS = 30.0
"""How long a guest may take nothing of what a pipe has for it; a person sees it, and leaves."""
MOST_TYPED = 1 << 16
"""Bytes that wait for the guest; what a person types beyond is lost, as on a serial line."""


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
        _relay(line, keyboard, node)
        return
    before = termios.tcgetattr(keyboard)
    try:
        tty.setraw(keyboard)  # this forgets what has been typed: the invitation comes after it
        click.echo(f"console of {node}; leave with Ctrl-]\r", err=True)
        _relay(line, keyboard, node)
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        click.echo("", err=True)


def _relay(line: socket.socket, keyboard: int, node: str) -> None:
    # A person at a terminal wants the guest's own screen; a pipe or a log wants its words.
    person = os.isatty(keyboard)
    raw = person and os.isatty(sys.stdout.fileno())
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    line.setblocking(False)  # a guest need not take what is typed, and Ctrl-] is not for it
    typed, more_comes, taken_at = b"", True, time.monotonic()
    while True:
        sources = [line.fileno()] + [keyboard] * (more_comes and (person or not typed))
        patience = STUCK_SECONDS if typed else None if more_comes else 2.0
        readable, writable, _ = select.select(sources, [line.fileno()] * bool(typed), [], patience)
        if not typed or writable:
            taken_at = time.monotonic()
        if not typed and not readable:
            return  # input has ended and the console has said what it had to say
        try:
            if writable:
                typed = typed[line.send(typed) :]
            said = line.recv(4096) if line.fileno() in readable else None
        except BlockingIOError:
            continue
        except OSError:  # it went with what it had not read (unix(7), ECONNRESET)
            return
        if said == b"":
            return
        if said and raw:
            os.write(sys.stdout.fileno(), said)
        elif said:
            sys.stdout.write(decoder.decode(said).replace("\r", ""))
            sys.stdout.flush()
        if keyboard in readable:
            more = os.read(keyboard, 4096)
            more_comes = bool(more)
            if LEAVE in more:
                return
            typed = (typed + more)[:MOST_TYPED]
        if typed and not person and time.monotonic() - taken_at > STUCK_SECONDS:
            raise GuestError(
                f"the console of {node} takes no more input",
                "labctl status tells whether the guest runs",
            )
