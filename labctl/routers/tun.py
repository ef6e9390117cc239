"""A router behind a TUN: what the kernel would forward passes a program, as in a VPN's daemon.

    python -m labctl.routers.tun --header WORD --netns NAME IFACE IFACE...

Whatever comes in by the router's interfaces, and is not for the router itself, is routed to a TUN
by rules of the namespace. The program reads it there and writes it back, and the kernel routes it
on. With the header `none` the TUN has no virtio header; with the others it has one (IFF_VNET_HDR)
and takes unfinished checksums (TUN_F_CSUM): `kept` writes the header that came with the packet,
`empty` one of zeros. The TUN goes with this process; its rules are taken away at its end.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import Sequence

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from labctl.packet.frame import LONGEST_FRAME
from labctl.packet.virtio import VNET_SIZE
from labctl.routers import holding
from labctl.sandbox import confine

LINK = "labctl-tun"
TABLE, PRIORITY = 77, 77
"""Of the rules: after the table of local addresses, before the main one (ip-rule(8))."""
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM = 1
"""linux/if_tun.h."""
BATCH = 64
HEADERS = ("none", "kept", "empty")
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def open_tun(vnet: bool) -> int:
    """Make the TUN; returns its descriptor. Raises `OSError`."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = _IFF_TUN | _IFF_NO_PI | (_IFF_VNET_HDR if vnet else 0)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", LINK.encode(), flags))
    if vnet:
        fcntl.ioctl(tun, _TUNSETOFFLOAD, _TUN_F_CSUM)
    return tun


def lead(interfaces: Sequence[str]) -> None:
    """Route what comes in by interfaces to the TUN; raises `OSError`."""
    with IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=LINK)
        ip.link("set", index=index, state="up")
        for family in _FAMILIES:
            everything = "0.0.0.0/0" if family == socket.AF_INET else "::/0"
            ip.route("add", family=int(family), dst=everything, oif=index, table=TABLE)
            for name in interfaces:
                ip.rule("add", family=int(family), priority=PRIORITY, iifname=name, table=TABLE)


def lead_no_more() -> None:
    """Take the rules away; no error where there are none. The routes go with the TUN."""
    with IPRoute() as ip:
        for family in _FAMILIES:
            with contextlib.suppress(NetlinkError):
                ip.flush_rules(family=int(family), priority=PRIORITY)


class Program:
    """Reads packets from the TUN and writes them back."""

    def __init__(self, tun: int, header: str) -> None:
        """Work on a TUN's descriptor."""
        self.tun, self.header = tun, header
        self.counters = Counter({"forwarded": 0, "send_errors": 0})

    def read(self) -> None:
        """Pass on a batch of what has come."""
        for _ in range(BATCH):
            try:
                packet = os.read(self.tun, VNET_SIZE + LONGEST_FRAME)
            except BlockingIOError:
                return
            if self.header == "empty":
                packet = bytes(VNET_SIZE) + packet[VNET_SIZE:]
            try:
                os.write(self.tun, packet)
                self.counters["forwarded"] += 1
            except OSError:
                self.counters["send_errors"] += 1


def route(interfaces: Sequence[str], asked: argparse.Namespace) -> holding.Held:
    """Make the TUN and lead packets to it; raises `OSError`."""
    program = Program(open_tun(asked.header != "none"), asked.header)
    try:
        lead_no_more()  # what a killed one has left
        lead(interfaces)
    except NetlinkError as wrong:
        raise OSError(wrong.code, f"rtnetlink: {wrong}") from wrong
    rights = (confine.CAP_NET_ADMIN,)
    readers = {program.tun: program.read}
    return holding.Held(lambda: program.counters, readers, lead_no_more, rights)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    words = argparse.ArgumentParser(prog="tun")
    words.add_argument("--header", choices=HEADERS, required=True, help="what is written back")
    return holding.main(route, words, argv)


if __name__ == "__main__":
    sys.exit(main())
