"""The observer program: one packet socket, every frame with what the kernel knew about it.

    python -I -S observe.py --hop NAME [--netns NAME] [--snap N] IFACE

writes the record stream of `stream.py` to its standard output until its standard input ends or it
gets SIGTERM; then it takes no new frame, drains what the kernel has queued and writes the trailer.
It needs nothing but the standard library (no package, no site), because it is started once for
every hop and has to be ready at once. So nothing of labctl can be imported here, and what it needs
of `labctl.packet.af_packet` and `labctl.packet.virtio` stands here once more (a test compares the
numbers). `observe.pl` is its twin for guests without Python.

The header is written after the socket is bound: whoever reads it knows that nothing sent from
then on is missed. Sources: packet(7); kernel net/packet/af_packet.c packet_recvmsg().
"""

from __future__ import annotations

import argparse
import array
import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

MAGIC = b"labctl\x00\x01"
RECORD, TRAILER = 1, 2
RECORD_HEAD = struct.Struct("<QBxHiIIIHH10s2x")

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_STATISTICS, PACKET_AUXDATA, PACKET_VNET_HDR = 6, 8, 15
SO_TIMESTAMPNS = 35
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33
SIOCGIFMTU, SIOCGIFINDEX = 0x8921, 0x8933
VNET_SIZE = 10
RECEIVE_BUFFER = 64 << 20
"""Bytes, at most; the kernel takes twice as much (`sock_setsockopt`)."""
SHARE_OF_MEMORY = 8
"""At most an eighth of what is free is asked for, so a quarter taken: who is observed must not be
short of memory for it."""
BATCH = 256


def enter(netns: str) -> None:
    """Move this process into the named network namespace."""
    fd = os.open(f"/run/netns/{netns}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if sys.version_info >= (3, 12):
            os.setns(fd, os.CLONE_NEWNET)
        else:
            import ctypes  # slow to import, so only where os.setns is missing

            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(fd, 0x40000000):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), netns)
    finally:
        os.close(fd)


def receive_buffer(meminfo: str = "/proc/meminfo") -> int:
    """Return how many bytes to ask for, given what memory is free (proc_meminfo(5))."""
    with open(meminfo) as lines:  # noqa: PTH123 - pathlib is slow to import, here in a guest
        for line in lines:
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return min(RECEIVE_BUFFER, int(value.split()[0]) * 1024 // SHARE_OF_MEMORY)
    return RECEIVE_BUFFER


def open_socket(iface: str) -> socket.socket:
    """Return a non-blocking packet socket bound to `iface`, metadata and timestamps switched on."""
    # Protocol 0 receives nothing, so that no frame gets in before the options are set.
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    size = receive_buffer()
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
    except PermissionError:  # in a user namespace only the ordinary limit can be asked for
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    sock.bind((iface, ETH_P_ALL))
    sock.setblocking(False)
    return sock


def ask(sock: socket.socket, request: int, iface: str) -> int:
    """Return the integer an interface ioctl (netdevice(7)) answers for `iface`."""
    answer = fcntl.ioctl(sock, request, struct.pack("16s16x", iface.encode()))
    return int(struct.unpack_from("i", answer, 16)[0])


def as_json(about: dict[str, int | str]) -> bytes:
    """Return an object of numbers and short texts; the least of Pythons has no module json."""
    parts = []
    for key, value in about.items():
        text = str(value)
        if isinstance(value, str):
            text = "".join(
                c if " " <= c <= "~" and c not in '"\\' else f"\\u{ord(c):04x}" for c in text
            )
            text = f'"{text}"'
        parts.append(f'"{key}": {text}')
    return ("{" + ", ".join(parts) + "}").encode()


def header(sock: socket.socket, hop: str, iface: str, snap: int) -> bytes:
    """Return the stream's header; its presence is the proof that the socket is bound."""
    about: dict[str, int | str] = {
        "version": 1,
        "hop": hop,
        "interface": iface,
        "ifindex": ask(sock, SIOCGIFINDEX, iface),
        "mtu": ask(sock, SIOCGIFMTU, iface),
        "snap": snap,
        "clock_ns": time.time_ns(),
        "kernel": os.uname().release,
        "observer": "python",
    }
    text = as_json(about)
    return MAGIC + struct.pack("<I", len(text)) + text


def receive(sock: socket.socket, snap: int, index: int) -> bytes:
    """Return one frame seen on interface `index` as a record.

    Raises `BlockingIOError` when none is queued.
    """
    data, controls, _, address = sock.recvmsg(snap + VNET_SIZE, 256, socket.MSG_TRUNC)
    now = status = length = tci = tpid = 0
    for level, kind, value in controls:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("qq", value)
            now = seconds * 1_000_000_000 + nanoseconds
        elif level == SOL_PACKET and kind == PACKET_AUXDATA:
            status, length, _, _, _, tci, tpid = struct.unpack("IIIHHHH", value)
    vnet, frame = data[:VNET_SIZE], data[VNET_SIZE:]
    head = RECORD_HEAD.pack(now, address[2], 0, index, status, length, len(frame), tci, tpid, vnet)
    return struct.pack("<BI", RECORD, len(head) + len(frame)) + head + frame


class Observer:
    """Reads one socket and writes one stream, counting what could not be received."""

    def __init__(self, sock: socket.socket, out: BinaryIO, snap: int, index: int) -> None:
        """Observe `sock`, bound to `index`, into `out`: at most `snap` bytes of each frame."""
        self.sock, self.out, self.snap, self.index = sock, out, snap, index
        self.written = self.errors = 0

    def drain(self, limit: int) -> bool:
        """Write at most `limit` queued frames; return whether more may be waiting."""
        for _ in range(limit):
            try:
                record = receive(self.sock, self.snap, self.index)
            except BlockingIOError:
                return False
            except InterruptedError:
                continue
            except OSError as wrong:
                # The interface went down or away, or a frame the virtio header cannot describe.
                self.errors += 1
                if wrong.errno in (errno.EBADF, errno.ENOTSOCK):
                    raise
                continue
            self.out.write(record)
            self.written += 1
        return True

    def watch(self, ends: Sequence[int]) -> None:
        """Write frames until one of the descriptors `ends` is readable."""
        poll = select.poll()
        for fd in (self.sock.fileno(), *ends):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            # What is on disk outlives a kill of this process, so flush whenever there is a lull.
            if not self.drain(BATCH):
                self.out.flush()
            for fd in ready.intersection(ends):
                if not os.read(fd, 4096) or fd != sys.stdin.fileno():
                    return

    def finish(self) -> None:
        """Close the door, write what is still queued, then the trailer."""
        refuse = array.array("B", struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
        program = struct.pack("HxxxxxxP", 1, refuse.buffer_info()[0])
        self.sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        while self.drain(BATCH):
            pass
        counted = self.sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        packets, drops = struct.unpack("II", counted)
        about: dict[str, int | str] = {
            "packets": packets,
            "drops": drops,
            "written": self.written,
            "errors": self.errors,
            "clock_ns": time.time_ns(),
        }
        text = as_json(about)
        self.out.write(struct.pack("<BI", TRAILER, len(text)) + text)
        self.out.flush()


def main(argv: Sequence[str] | None = None, kind: type[Observer] = Observer) -> int:
    """Run the observer; returns the exit status. `kind` is what reads the socket."""
    words = argparse.ArgumentParser(prog="observe")
    words.add_argument("--hop", required=True)
    words.add_argument("--netns")
    words.add_argument("--snap", type=int, default=262144)
    words.add_argument("iface")
    asked = words.parse_args(argv)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(write_end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us; he ends our input
    try:
        if asked.netns:
            enter(asked.netns)
        sock = open_socket(asked.iface)
        first = header(sock, asked.hop, asked.iface, asked.snap)
    except OSError as wrong:
        sys.stderr.write(f"cannot observe {asked.iface}: {wrong}\n")
        return 1
    out = sys.stdout.buffer
    try:
        observer = kind(sock, out, asked.snap, ask(sock, SIOCGIFINDEX, asked.iface))
        out.write(first)
        out.flush()
        observer.watch((sys.stdin.fileno(), read_end))
        observer.finish()
    except OSError as wrong:  # a full disk or a closed pipe: the stream stays, cut
        with contextlib.suppress(OSError):
            os.write(2, f"cannot write what was seen on {asked.iface}: {wrong}\n".encode())
        # The words may find no room either, the status does; and the interpreter's own end would
        # try to write the same buffer again.
        os._exit(wrong.errno or 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
