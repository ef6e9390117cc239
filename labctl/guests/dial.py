"""Connects to a guest from inside a lab, and hands the connection out to ssh(1).

    python -I -S dial.py ADDRESS PORT

With ProxyUseFdpass (ssh_config(5)) standard output is a UNIX socket; the descriptor of the
connection goes through it, with one octet (OpenSSH, mm_receive_fd() of monitor_fdpass.c), and
nothing of labctl is left between ssh and the guest.

It runs by its path, so it uses the standard library alone.
"""

from __future__ import annotations

import socket
import sys

SECONDS = 10.0


def main(address: str, port: str) -> int:
    """Connect, hand the connection on, return the exit status."""
    try:
        line = socket.create_connection((address, int(port)), SECONDS)
        line.settimeout(None)
        with line, socket.socket(fileno=1) as out:
            socket.send_fds(out, [b"\0"], [line.fileno()])
    except OSError as wrong:
        sys.stderr.write(f"labctl: {address} port {port} cannot be reached: {wrong}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
