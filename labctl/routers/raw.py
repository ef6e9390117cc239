"""A user-space router over packet sockets: the program behind the kinds `raw` and `raw-vnet`.

    python -m labctl.routers.raw --netns NAME [--vnet] IFACE IFACE...

The interfaces carry the router's addresses and the namespace does not forward (ip_forward=0), so
the kernel answers ARP, neighbour discovery and pings to the router, and this program alone
forwards. MAC addresses are rewritten, the TTL is decremented, the transport header stays as it
is; the sender of a packet whose TTL ends here is told so (ICMP time exceeded). Without `--vnet` a
frame's bytes are all that goes on: the metadata that its checksum is still to be finished is lost,
as in every program that copies frames between packet sockets. With it the virtio header
(PACKET_VNET_HDR) goes on too, and that is the only difference.

Once its sockets are bound it gives up its rights and its view of the files, and writes one line of
JSON with `ready`; on SIGUSR1 and at its end (SIGTERM, or the end of its input with `--until-eof`)
one line with its `counters`.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import signal
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from pyroute2 import netns as namespaces

from labctl.packet import forwarding
from labctl.packet.af_packet import (
    AUXDATA,
    ETH_P_ALL,
    PACKET_AUXDATA,
    PACKET_HOST,
    PACKET_IGNORE_OUTGOING,
    PACKET_STATISTICS,
    PACKET_VNET_HDR,
    SOL_PACKET,
    STATISTICS,
    TP_STATUS_VLAN_VALID,
    VLAN_AT,
    vlan_tag,
)
from labctl.packet.frame import LONGEST_FRAME, VLAN_HLEN
from labctl.packet.time_exceeded import time_exceeded
from labctl.packet.virtio import VNET_SIZE, shift
from labctl.routers.tables import Key, NextHop, Tables
from labctl.sandbox import confine

SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
BATCH = 64
BUFFER = 16 << 20
QUEUE = 64
"""Frames that wait for one neighbour's MAC address; further ones are dropped and counted."""
MOST_WAITING = 16 << 20
MOST_ASKED = 1024
"""Bytes that wait in all, and neighbours that they wait for: whoever sends to every address of a
subnet has each asked for. The kernel's table has no room for more neighbours (gc_thresh3)."""
NEIGHBOUR_SECONDS = 5.0
"""Seconds they wait at most; the kernel itself gives up after three."""
TOLD_PER_SECOND, TOLD_BURST = 1000, 50
"""ICMP errors, as the kernel limits its own (net.ipv4.icmp_msgs_per_sec, icmp_msgs_burst)."""

COUNTERS = (
    "received",
    "forwarded",
    "local",
    "other",
    "malformed",
    "not_forwardable",
    "refused",
    "ttl_expired",
    "icmp_sent",
    "no_route",
    "unresolved",
    "queue_full",
    "too_long",
    "send_errors",
    "receive_errors",
    "socket_drops",
)


class Answer(bytearray):
    """A frame of the router's own, which is not forwarded."""


class Port:
    """One interface of the router: a packet socket that receives and sends."""

    def __init__(self, name: str, vnet: bool) -> None:
        """Bind to the interface; raises `OSError` when there is none of that name."""
        self.name = name
        self.index = socket.if_nametoindex(name)
        self.offset = VNET_SIZE if vnet else 0
        # Protocol 0 receives nothing until bind, so that no frame comes without its options.
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        if vnet:
            self.socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self.socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)  # it holds a stripped VLAN tag
        self.socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        for forced, plain in (
            (SO_RCVBUFFORCE, socket.SO_RCVBUF),
            (SO_SNDBUFFORCE, socket.SO_SNDBUF),
        ):
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
            except PermissionError:  # in a user namespace only the ordinary limit
                self.socket.setsockopt(socket.SOL_SOCKET, plain, BUFFER)
        self.socket.bind((name, ETH_P_ALL))
        self.socket.setblocking(False)

    def drops(self) -> int:
        """Return how many frames the kernel dropped since the last call, for want of room."""
        counted = self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, STATISTICS.size)
        return int(STATISTICS.unpack(counted)[1])


class Router:
    """Forwards between its ports."""

    def __init__(self, names: Sequence[str], vnet: bool) -> None:
        """Bind every port and read the kernel's tables."""
        self.ports = {port.index: port for port in (Port(name, vnet) for name in names)}
        self.tables = Tables(self.ports)
        self.counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        self._buffer = bytearray(LONGEST_FRAME)
        self._waiting: dict[Key, tuple[float, deque[bytearray]]] = {}
        self._held = 0
        """Bytes in all of these."""
        self._tellable = float(TOLD_BURST)
        self._told_at = time.monotonic()

    def receive(self, port: Port) -> None:
        """Take in and forward a batch of what has come to a port."""
        for _ in range(BATCH):
            try:
                size, controls, flags, address = port.socket.recvmsg_into([self._buffer], 64)
            except BlockingIOError:
                return
            except OSError:  # the interface went down, or a frame no virtio header describes
                self.counters["receive_errors"] += 1
                continue
            if address[2] != PACKET_HOST:
                continue  # not to our own MAC address
            self.counters["received"] += 1
            if flags & socket.MSG_TRUNC:
                self.counters["too_long"] += 1
                continue
            message = bytearray(memoryview(self._buffer)[:size])
            message, status = _tagged(message, controls, port.offset)
            if self.admit(message, status):
                self.forward(message, port)
            else:
                self.counters["refused"] += 1

    def admit(self, message: bytearray, status: int) -> bool:  # noqa: ARG002
        """Return whether a message, of which the socket told a status, is to be forwarded.

        A program of another kind may change the frame, or its virtio header, before it is.
        """
        return True

    def forward(self, message: bytearray, port: Port) -> None:
        """Forward one frame that came to a port; it begins after its virtio header."""
        frame = memoryview(message)[port.offset :]
        packet = forwarding.read(frame)
        if isinstance(packet, forwarding.Refused):
            self.counters[packet.why] += 1
            return
        if packet.dst in self.tables.local:
            self.counters["local"] += 1
            return
        if packet.ttl <= 1:
            self.counters["ttl_expired"] += 1
            self._tell(frame, packet, port)
            return
        way = self.tables.routes.find(packet.dst)
        if way is None:
            self.counters["no_route"] += 1
            return
        forwarding.age(frame, packet)
        frame.release()
        self._hand_on(way, packet.dst, message)

    def _hand_on(self, way: NextHop, to: bytes, message: bytearray) -> None:
        """Send a frame on its way, or let it wait for its neighbour's MAC address."""
        key = (way.ifindex, way.gateway or to)
        mac = self.tables.mac(key)
        if mac is None:
            self._wait(key, message)
        else:
            self.send(key, mac, message)

    def _tell(self, frame: memoryview, packet: forwarding.IpHeader, port: Port) -> None:
        """Tell a packet's sender that its TTL has ended here, as the kernel's forwarding does."""
        sources = [
            one for one in self.tables.addresses.get(port.index, ()) if len(one) == len(packet.dst)
        ]
        at = packet.at + (12 if packet.version == 4 else 8)
        to = bytes(frame[at : at + len(packet.dst)])
        way = self.tables.routes.find(to)
        if not sources or way is None or to in self.tables.local or not self._may_tell():
            return
        answer = time_exceeded(frame, packet, sources[0])
        if answer is not None:
            # The virtio header of zeros says that nothing is left to be done.
            self._hand_on(way, to, Answer(bytes(port.offset) + answer))

    def _may_tell(self) -> bool:
        """Take one of the errors that may be sent now, if there is one."""
        now = time.monotonic()
        self._tellable = min(TOLD_BURST, self._tellable + (now - self._told_at) * TOLD_PER_SECOND)
        self._told_at = now
        if self._tellable < 1:
            return False
        self._tellable -= 1
        return True

    def _wait(self, key: Key, message: bytearray) -> None:
        """Keep a frame until its neighbour's MAC address is known."""
        many = key not in self._waiting and len(self._waiting) >= MOST_ASKED
        if many or self._held + len(message) > MOST_WAITING:
            self.counters["queue_full"] += 1
            return
        if key not in self._waiting:
            self._waiting[key] = (time.monotonic() + NEIGHBOUR_SECONDS, deque())
            self.tables.ask(key)
        queue = self._waiting[key][1]
        if len(queue) >= QUEUE:
            self.counters["queue_full"] += 1
        else:
            queue.append(message)
            self._held += len(message)

    def send(self, key: Key, mac: bytes, message: bytearray) -> None:
        """Send a frame, which begins at its port's `offset`, to a neighbour; count what came of it.

        A program of another kind may change the frame, or its virtio header, before it does so.
        """
        port = self.ports[key[0]]
        own = self.tables.macs.get(key[0])
        if own is None:  # the interface is gone
            self.counters["send_errors"] += 1
            return
        message[port.offset : port.offset + 12] = mac + own
        try:
            port.socket.send(message)
            self.counters["icmp_sent" if isinstance(message, Answer) else "forwarded"] += 1
        except OSError as wrong:
            too_long = wrong.errno == errno.EMSGSIZE
            self.counters["too_long" if too_long else "send_errors"] += 1

    def learn(self) -> None:
        """Take in the kernel's news and send, or give up, what waited for it."""
        for key, usable in self.tables.changes():
            waited = self._take(key)
            mac = self.tables.mac(key) if usable and waited else None
            if mac is None:
                self.counters["unresolved"] += len(waited)
                continue
            for message in waited:
                self.send(key, mac, message)

    def give_up(self) -> None:
        """Drop what has waited too long."""
        now = time.monotonic()
        for key in [key for key, (end, _) in self._waiting.items() if end < now]:
            self.counters["unresolved"] += len(self._take(key))

    def _take(self, key: Key) -> Sequence[bytearray]:
        """Return what waits for a neighbour; it waits no more."""
        _, waited = self._waiting.pop(key, (0.0, deque()))
        self._held -= sum(map(len, waited))
        return waited

    def run(self, ends: Sequence[int], wake: int) -> None:
        """Forward until a descriptor of `ends` ends or SIGTERM comes through `wake`."""
        poll = select.poll()
        news = self.tables.socket.fileno()
        ports = {port.socket.fileno(): port for port in self.ports.values()}
        for fd in (*ports, news, wake, *ends):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll(1000 if self._waiting else None):
                if fd in ports:
                    self.receive(ports[fd])
                elif fd == news:
                    self.learn()
                elif fd == wake:
                    numbers = os.read(wake, 4096)
                    if signal.SIGTERM in numbers:
                        return
                    if signal.SIGUSR1 in numbers:
                        self.report()
                elif not os.read(fd, 4096):
                    return
            self.give_up()

    def report(self) -> None:
        """Write the counters."""
        self.counters["socket_drops"] += sum(port.drops() for port in self.ports.values())
        say({"counters": dict(self.counters)})


def _tagged(
    message: bytearray, controls: Sequence[tuple[int, int, bytes]], offset: int
) -> tuple[bytearray, int]:
    """Put a VLAN tag that the kernel took out of the bytes back; return the tp_status, too."""
    status = 0
    for level, kind, value in controls:
        if (level, kind) != (SOL_PACKET, PACKET_AUXDATA):
            continue
        status, _, _, _, _, tci, tpid = AUXDATA.unpack(value)
        if status & TP_STATUS_VLAN_VALID:
            at = offset + VLAN_AT
            message[at:at] = vlan_tag(status, tci, tpid)
            if offset:
                shift(message, VLAN_HLEN)
    return message, status


def say(about: dict[str, object]) -> None:
    """Write one line of JSON to the standard output."""
    sys.stdout.write(json.dumps(about) + "\n")
    sys.stdout.flush()


def main(
    argv: Sequence[str] | None = None, kind: Callable[[Sequence[str], bool], Router] = Router
) -> int:
    """Run the program; returns its exit status. `kind` is the router that forwards in it."""
    words = argparse.ArgumentParser(prog="raw")
    words.add_argument("--netns", help="the named network namespace to enter")
    words.add_argument("--vnet", action="store_true", help="keep the virtio header")
    words.add_argument("--until-eof", action="store_true", help="end with the standard input")
    words.add_argument("interfaces", nargs="+", metavar="IFACE")
    asked = words.parse_args(argv)
    wake, wake_in = os.pipe()
    os.set_blocking(wake_in, False)
    signal.set_wakeup_fd(wake_in)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us
    try:
        if asked.netns:
            namespaces.setns(asked.netns, flags=0)
        router = kind(asked.interfaces, asked.vnet)
        # What comes now anybody may have sent. To ask for neighbours takes CAP_NET_ADMIN.
        confine.forgo(confine.CAP_NET_ADMIN)
    except OSError as wrong:
        sys.stderr.write(f"cannot route between {', '.join(asked.interfaces)}: {wrong}\n")
        return 1
    say({"ready": True, "pid": os.getpid(), "interfaces": asked.interfaces, "vnet": asked.vnet})
    router.run([sys.stdin.fileno()] if asked.until_eof else [], wake)
    router.report()
    return 0


if __name__ == "__main__":
    sys.exit(main())
