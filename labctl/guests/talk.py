"""What sends and receives in a guest that has Python and no Perl: each does as its twin in Perl.

The twins are in `labctl.tracing.flow`, `labctl.tracing.evidence` and `labctl.experiments.probes`,
which say what is printed when. It runs in the guest (`packet_socket.python_words`), so it imports
nothing of labctl, and the least of Pythons (python3-minimal) has all that it needs.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def opened(version: str, kind: int) -> socket.socket:
    """Return a new socket of an IP version."""
    return socket.socket(socket.AF_INET if version == "4" else socket.AF_INET6, kind)


def bound(version: str, kind: int, port: str) -> socket.socket:
    """Return a socket on a port of every address; raises `OSError`."""
    made = opened(version, kind)
    if kind == socket.SOCK_STREAM:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("" if version == "4" else "::", int(port)))
    return made


def readable(one: socket.socket, seconds: float) -> bool:
    """Whether something has come for a socket within some seconds."""
    return bool(select.select([one], [], [], seconds)[0])


def connect(version: str, address: str, port: str, seconds: str, count: str, listen: str) -> None:
    """Connect by TCP so often, and hear what the server says first."""
    for number in range(1, int(count) + 1):
        one = opened(version, socket.SOCK_STREAM)
        one.setblocking(False)
        error = one.connect_ex((address, int(port)))
        if error == 115:  # EINPROGRESS
            done = select.select([], [one], [], float(seconds))[1]
            error = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if done else 110
        if error:
            say(f"{number} error {error} {os.strerror(error)}")
            one.close()
            continue
        say(f"{number} connected")
        got = 0
        while readable(one, 0.1 if got else float(listen)):
            try:
                data = one.recv(65536)
            except OSError:
                break
            if not data:
                break
            got += len(data)
        say(f"{number} heard {got}")
        one.close()
    say("done")


def send(version: str, address: str, port: str, _seconds: str, count: str) -> None:
    """Send so many datagrams, and hear what answers each."""
    one = opened(version, socket.SOCK_DGRAM)
    try:
        one.connect((address, int(port)))
    except OSError as wrong:
        say(f"1 error {wrong.errno} {wrong.strerror}")
        return
    for number in range(1, int(count) + 1):
        try:
            one.send(b"labctl %d" % number)
            say(f"{number} sent")
            if readable(one, 0.3):
                say(f"{number} heard {len(one.recv(65536))}")
        except OSError as wrong:
            say(f"{number} error {wrong.errno} {wrong.strerror}")
    say("done")


def receive(version: str, port: str) -> None:
    """Take in datagrams until it is killed."""
    try:
        one = bound(version, socket.SOCK_DGRAM, port)
    except OSError:
        say("taken")
        return
    say("listening")
    while True:
        say(f"got {len(one.recv(65536))}")


def serve(version: str, port: str, name: str) -> None:
    """Tell a name to all who connect, until it is killed."""
    one = bound(version, socket.SOCK_STREAM, port)
    one.listen(8)
    say("listening")
    while True:
        there, _ = one.accept()
        with contextlib.suppress(OSError):
            there.sendall(name.encode() + b"\n")
        there.close()


def fetch(version: str, address: str, port: str) -> None:
    """Print what a server says."""
    one = opened(version, socket.SOCK_STREAM)
    try:
        one.connect((address, int(port)))
    except OSError as wrong:
        sys.exit(f"connect: {wrong.strerror}")
    while data := one.recv(4096):
        sys.stdout.write(data.decode(errors="replace"))


def greet(version: str, address: str, port: str, name: str) -> None:
    """Print a name when a connection is there, after what the server may say first."""
    one = opened(version, socket.SOCK_STREAM)
    try:
        one.connect((address, int(port)))
    except OSError as wrong:
        sys.exit(f"connect: {wrong.strerror}")
    readable(one, 5)
    say(name)


def take(version: str, port: str, seconds: str) -> None:
    """Print one datagram."""
    one = bound(version, socket.SOCK_DGRAM, port)
    say("listening")
    if not readable(one, float(seconds)):
        sys.exit(1)
    say("received " + one.recv(2048).decode(errors="replace"))


def put(version: str, address: str, port: str, text: str, unsummed: str = "") -> None:
    """Send one datagram, on wish without a checksum."""
    one = opened(version, socket.SOCK_DGRAM)
    try:
        if unsummed:
            one.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
        one.sendto(text.encode(), (address, int(port)))
    except OSError as wrong:
        sys.exit(f"send: {wrong.strerror}")


def clocks() -> None:
    """Print by how many nanoseconds CLOCK_REALTIME is ahead of CLOCK_MONOTONIC."""
    best = ahead = None
    for _ in range(9):
        before, real, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if best is None or after - before < best:
            best, ahead = after - before, real - (before + after) // 2
    say(str(ahead))


DO: dict[str, Callable[..., None]] = {
    "connect": connect,
    "send": send,
    "receive": receive,
    "serve": serve,
    "fetch": fetch,
    "greet": greet,
    "take": take,
    "put": put,
    "clocks": clocks,
}

if __name__ == "__main__":
    DO[sys.argv[1]](*sys.argv[2:])
