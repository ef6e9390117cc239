"""The links of a link kind's plan, made by netlink in the lab's namespaces.

What a plan says is plain data (`labctl.kinds.base.LinkPlan`); a plan of which some links are in
network namespaces of its own has those made here, too, and taken away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.errors import HostError
from labctl.kinds.base import LinkPlan, NewLink, Redirect
from labctl.sandbox.lazy_import import Late
from labctl.sandbox.netns import inside
from labctl.topology.model import Network

if TYPE_CHECKING:
    import pyroute2
else:
    pyroute2 = Late("pyroute2")

INGRESS = 0xFFFFFFF2
"""Of clsact: TC_H_MAKE(TC_H_CLSACT, TC_H_MININGRESS), linux/pkt_sched.h."""
EVERYTHING: Mapping[str, Any] = {"protocol": 3, "prio": 1, "target": 0, "keys": ["0x0/0x0+0"]}
"""What a filter u32 is told that takes every packet: ETH_P_ALL, no bit to compare."""
_IFR = ("no_pi", "one_queue", "vnet_hdr", "tun_excl", "multi_queue", "persist", "nofilter")
"""The flags of a TAP that pyroute2 takes."""


def namespaces(networks: Iterable[Network]) -> list[str]:
    """Return the names of all network namespaces that plans of these networks have."""
    found = (
        place for network in networks for one in network.segments for place in _places(one.plan)
    )
    return list(dict.fromkeys(found))


def _places(plan: LinkPlan) -> list[str]:
    return [place for place in dict.fromkeys(plan.places().values()) if place]


def make(network: Network, plan: LinkPlan, bridges: Collection[str]) -> None:
    """Make the links of a plan, but for `bridges`, in their namespaces; none is up yet.

    Raises `HostError` for a type of link that this kernel has not.
    """
    for place in _places(plan):
        pyroute2.netns.create(place)
        inside(place, _silence)
    for link in plan.links:
        if link.name in bridges:
            continue
        # A veth is made in one place and moved; another link belongs to where it was made.
        place = "" if link.peer else link.netns
        inside(place, _make, network, link)


def finish(plan: LinkPlan, masters: Mapping[str, str]) -> None:
    """Join the links of a plan to their masters, set them up and let them redirect what they must.

    Raises `HostError` for an action that this kernel has not.
    """
    places = plan.places()
    for place in dict.fromkeys(places.values()):
        here = [name for name, where in places.items() if where == place]
        inside(place, _finish, here, masters)
    for one in plan.redirects:
        inside(places[one.link], redirect, one)


def remove_namespaces(networks: Iterable[Network]) -> None:
    """Take the namespaces of plans away, with the links in them; no error where there are none."""
    for place in namespaces(networks):
        with contextlib.suppress(FileNotFoundError):
            pyroute2.netns.remove(place)


def _silence() -> None:
    """Let a new namespace send nothing of itself, and forward nothing."""
    for fix, value in (("ipv6/conf/default/disable_ipv6", "1"), ("ipv4/ip_forward", "0")):
        with contextlib.suppress(FileNotFoundError):
            Path("/proc/sys/net", fix).write_text(value)
    with pyroute2.IPRoute() as ip:
        ip.link("set", index=1, state="up")


def _make(network: Network, link: NewLink) -> None:
    mtu = network.mtu + link.headroom
    more: dict[str, Any] = dict(link.settings)
    if link.peer:
        more["peer"] = {"ifname": link.peer, "mtu": mtu}
    with pyroute2.IPRoute() as ip:
        try:
            if link.lower:
                (more["link"],) = ip.link_lookup(ifname=link.lower)
            if link.type == "tuntap":  # made by an ioctl that knows no MTU
                if more.pop("multi_queue", False):
                    more["ifr"] = dict.fromkeys(_IFR, 0) | {"multi_queue": 1}
                ip.link("add", ifname=link.name, kind=link.type, **more)
                (index,) = ip.link_lookup(ifname=link.name)
                ip.link("set", index=index, mtu=mtu)
            else:
                ip.link("add", ifname=link.name, kind=link.type, mtu=mtu, **more)
        except pyroute2.NetlinkError as reason:
            raise _refused(f"{link.name} of network {network.name}", link.type, reason) from None
        for name, place in ((link.name, link.netns), (link.peer, link.peer_netns)):
            if not name:
                continue
            _disable_ipv6(name)
            if link.peer and place:
                (index,) = ip.link_lookup(ifname=name)
                ip.link("set", index=index, net_ns_fd=place)
    for name, place, address in (
        (link.name, link.netns, link.address),
        (link.peer, link.peer_netns, link.peer_address),
    ):
        if address:
            inside(place if link.peer else "", _address, name, address)


def _refused(what: str, module: str, reason: Any) -> HostError:
    """Return the error of something that the kernel does not make."""
    hint = f"as root, run: modprobe {module}" if reason.code == errno.EOPNOTSUPP else ""
    return HostError(f"{what} cannot be made: {os.strerror(reason.code)}", hint)


def _disable_ipv6(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")


def _address(name: str, text: str) -> None:
    address = ip_interface(text)
    with pyroute2.IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=name)
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        length = address.network.prefixlen
        ip.addr("add", index=index, family=family, address=str(address.ip), prefixlen=length)


def _finish(names: Iterable[str], masters: Mapping[str, str]) -> None:
    with pyroute2.IPRoute() as ip:
        for name in names:
            (index,) = ip.link_lookup(ifname=name)
            if master := masters.get(name):
                ip.link("set", index=index, master=ip.link_lookup(ifname=master)[0])
            ip.link("set", index=index, state="up")


def redirect(one: Redirect) -> None:
    """Let what comes in by a link go out by another: tcf_mirred_act() in the kernel."""
    from labctl.network import act_csum

    act_csum.register()
    with pyroute2.IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=one.link)
        (other,) = ip.link_lookup(ifname=one.to)
        actions: list[dict[str, Any]] = []
        if one.completes:
            parts = act_csum.IPV4_HEADER | act_csum.ICMP | act_csum.TCP | act_csum.UDP
            actions.append({"kind": "csum", "update_flags": parts})
        mirred = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": other}
        actions.append(mirred)
        try:
            ip.tc("add", "clsact", index=index)
            ip.tc("add-filter", "u32", index=index, parent=INGRESS, action=actions, **EVERYTHING)
        except pyroute2.NetlinkError as reason:
            what = f"the redirection from {one.link} to {one.to}"
            raise _refused(what, "cls_u32 act_mirred act_csum", reason) from None
