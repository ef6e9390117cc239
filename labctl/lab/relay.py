"""Hands connections that come to a port of the host on to a port of a guest.

    python -P -m labctl.lab.relay NOTE SOCKET COMMAND...

It is inside the lab's namespaces, and ends with them; the listening SOCKET, a descriptor, was made
outside, and stays a socket of the host's network. For each connection COMMAND is started, an ssh(1)
that speaks by its standard input and output (`-W`). What passes is not looked at.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from labctl.sandbox.process import start_as

MOST = 64
"""Connections at once: each is an ssh(1). Further ones wait in the kernel."""
_CHUNK = 1 << 16
READY = b"ready\n"


def main(argv: Sequence[str]) -> int:
    """Serve until the lab ends, or SIGTERM comes."""
    note, number, *words = argv
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    Path(note).write_text(f"{os.getpid()} {stat[19]}")
    server = socket.socket(fileno=int(number))
    os.write(1, READY)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    room = threading.Semaphore(MOST)
    while True:
        room.acquire()
        line, _ = server.accept()
        threading.Thread(target=_serve, args=(line, words, room), daemon=True).start()


def _serve(line: socket.socket, words: Sequence[str], room: threading.Semaphore) -> None:
    try:
        with line, start_as(words, None) as child:
            assert child.stderr
            child.stderr.close()  # it is told to be quiet, and nobody reads here
            there = threading.Thread(target=_to_guest, args=(line, child), daemon=True)
            there.start()
            assert child.stdout
            with contextlib.suppress(OSError):
                while data := os.read(child.stdout.fileno(), _CHUNK):
                    line.sendall(data)
                # An end is handed on: its reader may wait for it while it still writes.
                line.shutdown(socket.SHUT_WR)
            there.join()
            child.kill()
    finally:
        room.release()


def _to_guest(line: socket.socket, child: subprocess.Popen[bytes]) -> None:
    assert child.stdin
    with contextlib.suppress(OSError):
        while data := line.recv(_CHUNK):
            child.stdin.write(data)
            child.stdin.flush()
    with contextlib.suppress(OSError):
        child.stdin.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
