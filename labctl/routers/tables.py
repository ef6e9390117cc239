"""What the kernel of the router's namespace knows: links, addresses, routes, neighbours.

The kernel answers ARP and neighbour discovery and keeps the tables; the program only reads them
and asks for a neighbour where one is missing. One netlink socket carries the kernel's changes;
pyroute2 writes and reads its messages. Sources: rtnetlink(7), kernel net/core/neighbour.c.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
    RTMGRP_LINK,
    RTMGRP_NEIGH,
)
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.ndmsg import ndmsg

_GROUPS = (
    RTMGRP_LINK
    | RTMGRP_NEIGH
    | RTMGRP_IPV4_IFADDR
    | RTMGRP_IPV6_IFADDR
    | RTMGRP_IPV4_ROUTE
    | RTMGRP_IPV6_ROUTE
)
_RELOAD = frozenset(
    {RTM_NEWLINK, RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE},
)
_LOCAL_TABLE, _MAIN_TABLE, _UNICAST = 255, 254, 1
_GLOBAL = 0
"""Scope of an address that is not of one link or host (rtnetlink(7), RT_SCOPE_UNIVERSE)."""
_NTF_USE, _REQUEST_CREATE = 0x01, 0x401
_REACHABLE, _STALE, _FAILED = 0x02, 0x04, 0x20
_USABLE = _REACHABLE | _STALE | 0x08 | 0x10 | 0x40 | 0x80  # and DELAY, PROBE, NOARP, PERMANENT
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_VERSIONS = {int(family): version for version, family in _FAMILIES.items()}


def packed(address: str) -> bytes:
    """Return an address's 4 or 16 bytes."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where a route leads: out of an interface, to a gateway or to the destination itself."""

    ifindex: int
    gateway: bytes | None


class Routes:
    """Longest-prefix match over both families."""

    def __init__(self) -> None:
        """Start with no route."""
        self._found: dict[tuple[int, int], dict[int, tuple[int, NextHop]]] = {}
        self._lengths: dict[int, list[int]] = {4: [], 6: []}

    def add(self, prefix: bytes, length: int, way: NextHop, metric: int = 0) -> None:
        """Add a route to `prefix`/`length`; of equal prefixes the lowest metric wins."""
        bits = len(prefix) * 8
        version = 4 if bits == 32 else 6
        routes = self._found.setdefault((version, length), {})
        key = int.from_bytes(prefix, "big") >> (bits - length)
        if key not in routes or metric < routes[key][0]:
            routes[key] = (metric, way)
        if length not in self._lengths[version]:
            self._lengths[version] = sorted([*self._lengths[version], length], reverse=True)

    def find(self, dst: bytes) -> NextHop | None:
        """Return the way to an address, or None."""
        bits = len(dst) * 8
        version = 4 if bits == 32 else 6
        number = int.from_bytes(dst, "big")
        for length in self._lengths[version]:
            found = self._found[version, length].get(number >> (bits - length))
            if found:
                return found[1]
        return None


@dataclass(slots=True)
class _Neighbour:
    mac: bytes
    stale: bool


Key = tuple[int, bytes]
"""A neighbour: interface index and address."""


class Tables:
    """The namespace's tables, kept current by the kernel's notifications.

    `macs` maps the served interfaces' indices to their MAC addresses, `local` holds the router's
    own addresses and its networks' broadcast addresses. `addresses` are those of each interface
    that packets can come back to, the first one first.
    """

    def __init__(self, served: Collection[int]) -> None:
        """Subscribe, then read all tables, so that no change falls between the two."""
        self.served = frozenset(served)
        self.macs: dict[int, bytes] = {}
        self.local: frozenset[bytes] = frozenset()
        self.addresses: dict[int, list[bytes]] = {}
        self.routes = Routes()
        self._neighbours: dict[Key, _Neighbour] = {}
        self._marshal = MarshalRtnl()
        self._sequence = 0
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind((0, _GROUPS))
        self.socket.setblocking(False)
        self.reload()
        self._reload_neighbours()

    def reload(self) -> None:
        """Read links, addresses and routes anew."""
        local: set[bytes] = set()
        addresses: dict[int, list[bytes]] = {}
        routes = Routes()
        with IPRoute() as ipr:
            links = {m["index"]: m.get_attr("IFLA_ADDRESS") for m in ipr.get_links()}
            for message in ipr.get_addr():
                own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                if message["scope"] == _GLOBAL and own:
                    addresses.setdefault(message["index"], []).append(packed(own))
            for family in _FAMILIES.values():
                for message in ipr.get_routes(family=family, table=_LOCAL_TABLE):
                    # Of the table's routes, those to one address: local, anycast, broadcast.
                    if message["dst_len"] == (32 if family == socket.AF_INET else 128):
                        local.add(packed(message.get_attr("RTA_DST")))
                for message in ipr.get_routes(family=family, table=_MAIN_TABLE):
                    self._add_route(routes, message)
        self.macs = {
            index: bytes.fromhex(links[index].replace(":", ""))
            for index in self.served
            if links.get(index)
        }
        self.local, self.addresses, self.routes = frozenset(local), addresses, routes

    def _add_route(self, routes: Routes, message: Any) -> None:
        index = message.get_attr("RTA_OIF")
        if message["type"] != _UNICAST or index not in self.served:
            return
        empty = "0.0.0.0" if message["family"] == socket.AF_INET else "::"
        gateway = message.get_attr("RTA_GATEWAY")
        routes.add(
            packed(message.get_attr("RTA_DST") or empty),
            message["dst_len"],
            NextHop(index, packed(gateway) if gateway else None),
            message.get_attr("RTA_PRIORITY") or 0,
        )

    def _reload_neighbours(self) -> None:
        self._neighbours.clear()
        with IPRoute() as ipr:
            for family in _FAMILIES.values():
                for message in ipr.get_neighbours(family=family):
                    self._learn(message)

    def _learn(self, message: Any) -> tuple[Key, bool] | None:
        """Take in a neighbour message; return the neighbour and whether it is usable now."""
        address = message.get_attr("NDA_DST")
        if (
            message["family"] not in _VERSIONS
            or message["ifindex"] not in self.served
            or not address
        ):
            return None
        key = (message["ifindex"], packed(address))
        mac = message.get_attr("NDA_LLADDR")
        deleted = message["header"]["type"] == RTM_DELNEIGH
        if not deleted and message["state"] & _USABLE and mac:
            stale = bool(message["state"] & _STALE)
            self._neighbours[key] = _Neighbour(bytes.fromhex(mac.replace(":", "")), stale)
            return key, True
        self._neighbours.pop(key, None)
        return key, False

    def mac(self, key: Key) -> bytes | None:
        """Return a neighbour's MAC address, or None where it has to be asked for."""
        known = self._neighbours.get(key)
        if known is None:
            return None
        if known.stale:
            known.stale = False  # ask once; the kernel tells what came of it
            self.ask(key)
        return known.mac

    def ask(self, key: Key) -> None:
        """Have the kernel resolve a neighbour, as if it had a packet for it (NTF_USE)."""
        message = ndmsg()
        message["family"] = int(_FAMILIES[4 if len(key[1]) == 4 else 6])
        message["ifindex"] = key[0]
        message["flags"] = _NTF_USE
        text = socket.inet_ntop(message["family"], key[1])
        message["attrs"] = [("NDA_DST", text)]
        self._sequence += 1
        message["header"]["type"] = RTM_NEWNEIGH
        message["header"]["flags"] = _REQUEST_CREATE
        message["header"]["sequence_number"] = self._sequence
        message.encode()
        with contextlib.suppress(OSError):  # not asked: who waits for the answer gives up in time
            self.socket.send(message.data)

    def changes(self) -> Iterator[tuple[Key, bool]]:
        """Take in what the kernel has told; yield the neighbours that changed.

        Each comes with whether it is usable now; False is a neighbour that did not answer.
        """
        reload = False
        while True:
            try:
                data = self.socket.recv(1 << 18)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: something was not told, so read everything
                self._reload_neighbours()
                yield from [(key, True) for key in self._neighbours]
                reload = True
                continue
            for message in self._marshal.parse(data):
                kind = message["header"]["type"]
                if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
                    change = self._learn(message)
                    ended = kind == RTM_DELNEIGH or message["state"] & _FAILED
                    if change and (change[1] or ended):  # else it is still being asked for
                        yield change
                elif kind in _RELOAD:
                    reload = True
        if reload:
            self.reload()

    def close(self) -> None:
        """Let go of the netlink socket."""
        self.socket.close()
