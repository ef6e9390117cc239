"""A VRF in a router's namespace: the program behind the kind `vrf`.

    python -m labctl.routers.vrf --netns NAME IFACE IFACE...

It makes a device of the type `vrf` with a routing table of its own, and lets the interfaces be its
ports, with their addresses and the routes by them. With SIGTERM the device goes, and all is as it
was. The namespace's kernel forwards.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import rt_proto, rt_scope

from labctl.routers import holding
from labctl.sandbox import confine

DEVICE, TABLE = "labctl-vrf", 1042
MAIN = 254
"""RT_TABLE_MAIN (linux/rtnetlink.h)."""
_GLOBAL, _NODAD = 0, 0x02
"""RT_SCOPE_UNIVERSE, and IFA_F_NODAD (linux/if_addr.h)."""


def bind(interfaces: Sequence[str], _asked: argparse.Namespace) -> holding.Held:
    """Make the device and its ports; raises `OSError`."""
    ip = IPRoute()  # open until the end: later no file is in sight that it may want
    try:
        ip.link("add", ifname=DEVICE, kind="vrf", vrf_table=TABLE)
        (device,) = ip.link_lookup(ifname=DEVICE)
        ip.link("set", index=device, state="up")
        _move(ip, interfaces, device, MAIN, TABLE)
    except NetlinkError as wrong:
        raise OSError(wrong.code, f"VRF: {wrong}") from wrong

    def undo() -> None:
        try:
            _move(ip, interfaces, 0, TABLE, MAIN)
            ip.link("del", index=device)
        except NetlinkError as wrong:
            raise OSError(wrong.code, f"VRF: {wrong}") from wrong

    return holding.Held(undo=undo, rights=(confine.CAP_NET_ADMIN,))


def _move(ip: IPRoute, interfaces: Sequence[str], master: int, old: int, new: int) -> None:
    """Move interfaces, and what is routed by them, into a VRF or out of it.

    The kernel takes an interface down for a moment (cycle_netdev(), drivers/net/vrf.c), and with it
    its IPv6 addresses and its routes.
    """
    indexes = [index for name in interfaces for index in ip.link_lookup(ifname=name)]
    addresses = [one for index in indexes for one in ip.get_addr(index=index)]
    routes = [
        one
        for family in (socket.AF_INET, socket.AF_INET6)
        for one in ip.get_routes(family=int(family), table=old)
        if one.get_attr("RTA_OIF") in indexes and one.get_attr("RTA_GATEWAY")
    ]
    for index in indexes:
        ip.link("set", index=index, master=master)
    for one in addresses:
        if one["scope"] == _GLOBAL:
            _add_address(ip, one)
    for one in routes:
        length = one["dst_len"]
        any_address = "0.0.0.0" if one["family"] == socket.AF_INET else "::"
        ip.route(
            "replace", family=one["family"], table=new, gateway=one.get_attr("RTA_GATEWAY"),
            dst=f"{one.get_attr('RTA_DST') or any_address}/{length}",
            oif=one.get_attr("RTA_OIF"), proto=rt_proto["static"], scope=rt_scope["universe"],
        )  # fmt: skip


def _add_address(ip: IPRoute, address: Any) -> None:
    six = address["family"] == socket.AF_INET6
    ip.addr(
        "replace", index=address["index"], family=address["family"],
        address=address.get_attr("IFA_ADDRESS"), prefixlen=address["prefixlen"],
        **({"flags": _NODAD} if six else {}),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(holding.main(bind, argparse.ArgumentParser(prog="vrf")))
