"""Join this terminal to a guest's serial console."""

from __future__ import annotations

import os
import select
import socket
import sys
import termios
import tty
from pathlib import Path

import click

from labctl.errors import GuestError

LEAVE = b"\x1d"
"""Ctrl-], as telnet(1) and virsh(1) have it."""


def attach(path: Path, node: str) -> None:
    """Pass bytes both ways until Ctrl-], end of input, or the guest's end.

    Raises `GuestError` when nobody listens at the console.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        try:
            line.connect(str(path))
        except OSError:
            raise GuestError(
                f"the console of {node} does not answer: the guest has ended",
                f"read what it said last: labctl logs {node}",
            ) from None
        keyboard = sys.stdin.fileno()
        if not os.isatty(keyboard):
            _relay(line, keyboard)
            return
        click.echo(f"console of {node}; leave with Ctrl-]", err=True)
        before = termios.tcgetattr(keyboard)
        try:
            tty.setraw(keyboard)
            _relay(line, keyboard)
        finally:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
            click.echo("", err=True)


def _relay(line: socket.socket, keyboard: int) -> None:
    sources: list[int] = [line.fileno(), keyboard]
    while True:
        readable, _, _ = select.select(sources, [], [], None if keyboard in sources else 2.0)
        if not readable:
            return  # input has ended and the console has said what it had to say
        if line.fileno() in readable:
            said = line.recv(4096)
            if not said:
                return
            os.write(sys.stdout.fileno(), said)
        if keyboard in readable:
            typed = os.read(keyboard, 4096)
            if not typed:
                sources.remove(keyboard)
                continue
            if LEAVE in typed:
                return
            line.sendall(typed)
