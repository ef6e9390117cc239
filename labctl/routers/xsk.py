"""A router over AF_XDP sockets: the program behind the kind `af-xdp`.

    python -m labctl.routers.xsk --netns NAME IFACE IFACE...

An XDP program (generic mode) at every interface does what that of `labctl.routers.redirect` does,
but hands the frame to this process, by a socket of AF_XDP in copy mode; this one sends it by the
socket of the interface whose MAC address the XDP program has written as the sender's. What the
kernel's tables do not tell goes to the kernel, which forwards too. All of it ends with the process.
Source: Documentation/networking/af_xdp.rst, include/uapi/linux/if_xdp.h.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import mmap
import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from pyroute2 import IPRoute

from labctl.routers import bpf, holding, redirect

AF_XDP, SOL_XDP = 44, 283
_MMAP_OFFSETS, _RX_RING, _TX_RING, _UMEM_REG, _FILL_RING, _COMPLETION_RING = 1, 2, 3, 4, 5, 6
_PAGE_OFFSETS = {
    _RX_RING: 0, _TX_RING: 0x80000000, _FILL_RING: 0x100000000, _COMPLETION_RING: 0x180000000
}  # fmt: skip
_COPY = 1 << 1
_REDIRECT_MAP, _XDP_PASS = 51, 2
CHUNK, ENTRIES = 4096, 128
"""Octets of a frame's place in memory, and entries of each ring: so many places for each way."""
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Ring:
    """A ring that this process and the kernel share: one writes entries, one reads them."""

    memory: mmap.mmap
    producer: int
    consumer: int
    entries: int
    """Offsets in `memory`."""

    def _counter(self, at: int) -> int:
        return int(struct.unpack_from("=I", self.memory, at)[0])

    def put(self, entry: bytes) -> None:
        """Write an entry; there is room, since there are no more places than entries."""
        at = self._counter(self.producer)
        place = self.entries + at % ENTRIES * len(entry)
        self.memory[place : place + len(entry)] = entry
        struct.pack_into("=I", self.memory, self.producer, (at + 1) & 0xFFFFFFFF)

    def take(self, size: int) -> Iterator[bytes]:
        """Yield the entries of a size that the kernel has written."""
        while (at := self._counter(self.consumer)) != self._counter(self.producer):
            place = self.entries + at % ENTRIES * size
            yield self.memory[place : place + size]
            struct.pack_into("=I", self.memory, self.consumer, (at + 1) & 0xFFFFFFFF)


class Port:
    """A socket of AF_XDP at an interface, with its memory and rings."""

    def __init__(self, name: str) -> None:
        """Bind to queue 0 of the interface, in copy mode; raises `OSError`."""
        self.socket = socket.socket(AF_XDP, socket.SOCK_RAW, 0)
        self.memory = mmap.mmap(-1, 2 * ENTRIES * CHUNK)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        place = struct.pack("=QQIIII", begin, len(self.memory), CHUNK, 0, 0, 0)
        self.socket.setsockopt(SOL_XDP, _UMEM_REG, place)
        for ring in _PAGE_OFFSETS:
            self.socket.setsockopt(SOL_XDP, ring, struct.pack("=I", ENTRIES))
        told = struct.unpack("=16Q", self.socket.getsockopt(SOL_XDP, _MMAP_OFFSETS, 128))
        order = (_RX_RING, _TX_RING, _FILL_RING, _COMPLETION_RING)
        offsets = {ring: told[4 * number : 4 * number + 3] for number, ring in enumerate(order)}
        self.received = self._map(_RX_RING, 16, offsets)
        self.sent = self._map(_TX_RING, 16, offsets)
        self.fill = self._map(_FILL_RING, 8, offsets)
        self.completed = self._map(_COMPLETION_RING, 8, offsets)
        self.free = [(ENTRIES + number) * CHUNK for number in range(ENTRIES)]
        for number in range(ENTRIES):
            self.fill.put(struct.pack("=Q", number * CHUNK))
        address = struct.pack("=HHIII", AF_XDP, _COPY, socket.if_nametoindex(name), 0, 0)
        if _libc.bind(self.socket.fileno(), address, len(address)):  # Python knows no such address
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")

    def _map(self, ring: int, size: int, offsets: dict[int, tuple[int, ...]]) -> Ring:
        producer, consumer, entries = offsets[ring]
        memory = mmap.mmap(
            self.socket.fileno(), entries + ENTRIES * size, offset=_PAGE_OFFSETS[ring]
        )
        return Ring(memory, producer, consumer, entries)

    def frames(self) -> Iterator[bytes]:
        """Yield what has come; its places go back to the kernel."""
        for entry in self.received.take(16):
            at, length, _ = struct.unpack("=QII", entry)
            yield self.memory[at : at + length]
            self.fill.put(struct.pack("=Q", at - at % CHUNK))

    def send(self, frame: bytes) -> None:
        """Send a frame; raises `OSError` where there is no room."""
        self.free += [struct.unpack("=Q", entry)[0] for entry in self.completed.take(8)]
        if not self.free or len(frame) > CHUNK:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        at = self.free.pop()
        self.memory[at : at + len(frame)] = frame
        self.sent.put(struct.pack("=QII", at, len(frame), 0))
        self.socket.send(b"", socket.MSG_DONTWAIT)


class Program:
    """Sends by one port what has come by another."""

    def __init__(self, ports: Sequence[Port], macs: Sequence[bytes]) -> None:
        """Take over ports, each with its interface's MAC address."""
        self.ports = dict(zip(macs, ports, strict=True))
        self.counters = Counter({"forwarded": 0, "send_errors": 0})

    def read(self, port: Port) -> None:
        """Pass on what has come to a port."""
        for frame in port.frames():
            way = self.ports.get(frame[6:12])
            try:
                if way is None:
                    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
                way.send(frame)
                self.counters["forwarded"] += 1
            except OSError:
                self.counters["send_errors"] += 1


def hand_over(code: bpf.Assembler, sockets: int, key: int) -> None:
    """End the XDP program: the frame goes to the socket of a key; where there is none, on."""
    code.set_map(1, sockets)
    code.set(2, key)
    code.set(3, _XDP_PASS)
    code.call(_REDIRECT_MAP)


def route(interfaces: Sequence[str], _asked: argparse.Namespace) -> holding.Held:
    """Make the sockets and let the XDP program run at every interface; raises `OSError`."""
    hook = redirect.HOOKS["xdpgeneric"]
    sockets = bpf.make_map(bpf.XSKMAP, len(interfaces))
    ports, macs = [], []
    with IPRoute() as ip:
        for key, name in enumerate(interfaces):
            port = Port(name)
            bpf.put(sockets, key, port.socket.fileno())
            (link,) = ip.get_links(socket.if_nametoindex(name))
            ports.append(port)
            macs.append(bytes.fromhex(link.get_attr("IFLA_ADDRESS").replace(":", "")))
    for key, name in enumerate(interfaces):
        ends = partial(hand_over, sockets=sockets, key=key)
        program = bpf.load(hook.kind, redirect.assemble(hook, ends))
        bpf.attach(program, socket.if_nametoindex(name), hook.attach, hook.flags)
    made = Program(ports, macs)
    readers = {port.socket.fileno(): partial(made.read, port) for port in ports}
    return holding.Held(lambda: made.counters, readers)


if __name__ == "__main__":
    sys.exit(holding.main(route, argparse.ArgumentParser(prog="xsk", add_help=False)))
