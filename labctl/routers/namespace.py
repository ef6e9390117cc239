"""A router's namespace: its veths, addresses and routes, and whether its kernel forwards.

Functions run inside the lab's sandbox. Every kind of router has the same namespace; the kinds
differ in who forwards: the namespace's kernel, or the program `labctl.routers.raw` inside it.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.errors import HostError
from labctl.sandbox.lazy_import import Late
from labctl.sandbox.netns import inside
from labctl.sandbox.remote import remote
from labctl.topology.model import Router, RouterInterface

if TYPE_CHECKING:
    import pyroute2
else:
    pyroute2 = Late("pyroute2")

_SYSCTL = Path("/proc/sys/net")
_NODAD = 0x02
"""IFA_F_NODAD: the address is usable at once (linux/if_addr.h)."""
_DEFAULTS = {
    "ipv4/conf/{}/rp_filter": "0",  # a namespace takes over the host's value
    "ipv4/conf/{}/send_redirects": "0",
    "ipv4/conf/{}/accept_redirects": "0",
    "ipv6/conf/{}/accept_dad": "0",  # the topology's check already found duplicates
    "ipv6/conf/{}/dad_transmits": "0",
    "ipv6/conf/{}/accept_ra": "0",
    "ipv6/conf/{}/accept_redirects": "0",
    "ipv6/conf/{}/router_solicitations": "0",
}


@remote
def build(router: Router, bridges: Mapping[str, str]) -> None:
    """Make a router's namespace, its interfaces on their bridges, addresses and routes.

    `bridges` are the links that its interfaces become ports of, by their names.

    It does not forward yet: see `set_forwarding`. What was made is taken away again on an error.
    Raises `HostError` where a bridge is missing or the kernel lacks a part.
    """
    try:
        pyroute2.netns.create(router.name)
        inside(router.name, _prepare)
        with pyroute2.IPRoute() as ipr:
            for interface in router.interfaces:
                _plug(ipr, router.name, interface, bridges[interface.name])
        inside(router.name, _configure, router)
    except (OSError, pyroute2.NetlinkError) as wrong:
        remove(router)
        reason = wrong.args[1] if len(wrong.args) > 1 and wrong.args[1] else wrong
        hint = ""
        if wrong.args and wrong.args[0] == errno.EOPNOTSUPP:
            hint = "as root, run: modprobe veth"
        raise HostError(f"the router {router.name} cannot be made: {reason}", hint) from wrong
    except BaseException:
        remove(router)
        raise


@remote
def remove(router: Router) -> None:
    """Take a router's namespace and veths away; no error where there are none."""
    with pyroute2.IPRoute() as ipr:
        for interface in router.interfaces:
            for index in ipr.link_lookup(ifname=interface.peer):
                # It may go with its namespace meanwhile.
                with contextlib.suppress(pyroute2.NetlinkError):
                    ipr.link("del", index=index)
    with contextlib.suppress(FileNotFoundError):
        pyroute2.netns.remove(router.name)


@remote
def set_forwarding(router: Router, forward: bool) -> None:
    """Let the namespace's kernel forward IPv4 and IPv6, or not."""
    inside(router.name, _forward, forward)


@remote
def forwarding(router: Router) -> bool:
    """Tell whether the namespace's kernel forwards (both families)."""
    return inside(router.name, _forwards)


def _prepare() -> None:
    for where in ("all", "default"):
        for fix, value in _DEFAULTS.items():
            _write(fix.format(where), value)
    _forward(False)
    with pyroute2.IPRoute() as ipr:
        ipr.link("set", index=1, state="up")


def _write(fix: str, value: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6, or an older one
        (_SYSCTL / fix).write_text(value)


def _forward(forward: bool) -> None:
    for fix in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        _write(fix, str(int(forward)))


def _forwards() -> bool:
    fixes = (_SYSCTL / "ipv4/ip_forward", _SYSCTL / "ipv6/conf/all/forwarding")
    return all(fix.read_text().strip() == "1" for fix in fixes if fix.exists())


def _plug(ipr: pyroute2.IPRoute, name: str, interface: RouterInterface, bridge: str) -> None:
    """Make a veth with one end in the namespace and the other on a bridge."""
    bridges = ipr.link_lookup(ifname=bridge)
    if not bridges:
        raise HostError(f"the bridge {bridge} of router {name} does not exist")
    inner = {
        "ifname": interface.name,
        "net_ns_fd": name,
        "address": interface.mac,
        "mtu": interface.mtu,
    }
    ipr.link("add", ifname=interface.peer, kind="veth", mtu=interface.mtu, peer=inner)
    (index,) = ipr.link_lookup(ifname=interface.peer)
    _write(f"ipv6/conf/{interface.peer}/disable_ipv6", "1")  # a bridge port has nothing to say
    ipr.link("set", index=index, master=bridges[0], state="up")


def _configure(router: Router) -> None:
    with pyroute2.IPRoute() as ipr:
        for interface in router.interfaces:
            (index,) = ipr.link_lookup(ifname=interface.name)
            ipr.link("set", index=index, state="up")
            for address in interface.addresses:
                six = address.version == 6
                ipr.addr(
                    "add",
                    index=index,
                    family=socket.AF_INET6 if six else socket.AF_INET,
                    address=str(address.ip),
                    prefixlen=address.network.prefixlen,
                    **({"flags": _NODAD} if six else {}),
                )
        for route in router.routes:
            six = route.to.version == 6
            ipr.route(
                "add",
                family=socket.AF_INET6 if six else socket.AF_INET,
                dst=str(route.to),
                gateway=str(route.via),
            )
