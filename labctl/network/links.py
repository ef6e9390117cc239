"""Bridges and TAPs, made by netlink inside the sandbox."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.errors import HostError
from labctl.kinds.base import Redirect
from labctl.network import planned
from labctl.sandbox.lazy_import import Late
from labctl.sandbox.netns import inside
from labctl.sandbox.remote import remote
from labctl.topology.model import MGMT_BRIDGE, Network, Node, Topology, link_local

if TYPE_CHECKING:
    import pyroute2
else:
    pyroute2 = Late("pyroute2")


IFF_UP = 1
_NOARP, _PERMANENT, _MASTER = 0x40, 0x80, 0x04
"""linux/neighbour.h: NUD_NOARP (of a bridge's table: static), NUD_PERMANENT, NTF_MASTER."""
MOST_LEARNT = 4096
"""MAC addresses of a bridge's table: far more than a lab has."""
_RTM_NEWLINK, _REQUEST_ACK, _IFLA_LINKINFO, _IFLA_INFO_KIND, _IFLA_INFO_DATA = 16, 5, 18, 1, 2
_IFLA_BR_FDB_MAX_LEARNED = 49
"""linux/rtnetlink.h, linux/netlink.h, linux/if_link.h."""
_BRIDGE = Path("/proc/sys/net/bridge")
_FORWARDING = (
    Path("/proc/sys/net/ipv4/ip_forward"),
    Path("/proc/sys/net/ipv6/conf/all/forwarding"),
)


@dataclass(frozen=True)
class Link:
    """A link as the kernel shows it."""

    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    master: str


def _no_address_delay(name: str) -> None:
    """Let IPv6 addresses of a link be used at once, and no router be asked for.

    Duplicate address detection keeps an address tentative for a second (RFC 4862, 5.4); addresses
    of a lab are unique because its topology was checked.
    """
    for fix, value in (("accept_dad", "0"), ("dad_transmits", "0"), ("accept_ra", "0")):
        path = Path(f"/proc/sys/net/ipv6/conf/{name}/{fix}")
        if path.exists():
            path.write_text(value)


def _disable_ipv6(name: str) -> None:
    path = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    if path.exists():
        path.write_text("1")


def make_bridge(
    ip: pyroute2.IPRoute,
    name: str,
    *,
    mtu: int,
    stp: bool,
    addresses: Iterable[IPv4Interface | IPv6Interface] = (),
    ipv6: bool = False,
) -> None:
    """Make a bridge and bring it up; it has no address of its own unless told.

    Multicast snooping is off: without a querier it may stop forwarding neighbour discovery.
    """
    ip.link("add", ifname=name, kind="bridge", br_stp_state=int(stp), br_forward_delay=0,
            br_mcast_snooping=0)  # fmt: skip
    index = ip.link_lookup(ifname=name)[0]
    _bound_table(index)
    addresses = tuple(addresses)
    if ipv6 or any(address.version == 6 for address in addresses):
        _no_address_delay(name)
    else:
        _disable_ipv6(name)  # the observer must not speak on the network it observes
    ip.link("set", index=index, mtu=mtu, state="up")
    for address in addresses:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        ip.addr("add", index=index, family=family, address=str(address.ip),
                prefixlen=address.network.prefixlen)  # fmt: skip


def _bound_table(index: int) -> None:
    """Let a bridge learn so many MAC addresses and no more; it forgets each after five minutes.

    A guest that sends by one after another would fill the host's memory: a million a second, each
    with 128 bytes of the kernel's (struct net_bridge_fdb_entry). What is not learnt is flooded.
    The kernel can since Linux 6.8 (IFLA_BR_FDB_MAX_LEARNED), and passes over it before; pyroute2
    does not know of it. Raises `OSError`.
    """
    data = _attribute(_IFLA_BR_FDB_MAX_LEARNED, struct.pack("=I", MOST_LEARNT))
    info = _attribute(_IFLA_INFO_KIND, b"bridge\0") + _attribute(_IFLA_INFO_DATA, data)
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
    body += _attribute(_IFLA_LINKINFO, info)
    head = struct.pack("=IHHII", 16 + len(body), _RTM_NEWLINK, _REQUEST_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(head + body)
        (error,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    if error:
        raise OSError(-error, os.strerror(-error))


def _attribute(kind: int, value: bytes) -> bytes:
    """Write an attribute of netlink (netlink(7)), padded to four bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


_NO_TUN = "as root, run: modprobe tun; in a container: start it with --device /dev/net/tun"
_TUN_REMEDIES = {
    errno.EACCES: "as root, run: chmod 666 /dev/net/tun",
    errno.EPERM: "in a container: start it with --device /dev/net/tun",
    errno.ENOENT: _NO_TUN,
    errno.ENODEV: _NO_TUN,
    errno.ENXIO: _NO_TUN,
}


def make_tap(ip: pyroute2.IPRoute, name: str, bridge: str, mtu: int) -> None:
    """Make a persistent TAP on a bridge and bring it up; QEMU attaches to it later.

    Raises `HostError` when `/dev/net/tun` cannot be used.
    """
    try:
        ip.link("add", ifname=name, kind="tuntap", mode="tap")
    except (OSError, pyroute2.NetlinkError) as reason:  # pyroute2 wraps what the device says
        number = reason.code if isinstance(reason, pyroute2.NetlinkError) else reason.errno
        if mended_by := _TUN_REMEDIES.get(number or 0):
            raise HostError(
                f"/dev/net/tun cannot be used: {os.strerror(number or 0)}", mended_by
            ) from None
        raise
    index = ip.link_lookup(ifname=name)[0]
    _disable_ipv6(name)
    master = ip.link_lookup(ifname=bridge)[0]
    ip.link("set", index=index, mtu=mtu, master=master, state="up")


def guard(ip: pyroute2.IPRoute, port: str, bridge: str, macs: Iterable[str]) -> None:
    """Let a port of the management bridge be for these MAC addresses alone, and they for it.

    It reaches the bridge, and no other port that is isolated, so no guest reaches another one's
    management interface: BR_ISOLATED in the kernel's br_private.h (should_deliver, br_forward.c).

    Nor can a guest pass for another one. A bridge learns from what it sees whose port is where
    (br_fdb_update, br_fdb.c), and a host learns who has an address; by one frame with another
    guest's address labctl would have lost that one. So nothing is learnt here, all of it is said
    beforehand, and what comes from other addresses is dropped (`locked`, from Linux 5.18 on).
    """
    (index,) = ip.link_lookup(ifname=port)
    (above,) = ip.link_lookup(ifname=bridge)
    ip.brport("set", index=index, isolated=1, learning=0, locked=1)
    for mac in macs:
        ip.fdb("replace", ifindex=index, lladdr=mac, state=_NOARP, flags=_MASTER)
        ip.neigh("replace", ifindex=above, dst=link_local(mac), lladdr=mac, state=_PERMANENT)


@remote
def leave_bridges_alone() -> None:
    """Keep netfilter out of the bridges of this network namespace, and route nothing between them.

    Where br_netfilter is loaded a new namespace starts with it on (br_netfilter_hooks.c), and
    bridges then drop frames whose IP header looks wrong. Where the host forwards IPv4, as one with
    Docker does, a new namespace forwards too (devinet_init_net, devinet.c): through a bridge that
    has an address, a guest would reach networks that it is not plugged into, and on other hosts
    not. Not for the host's own namespace.
    """
    for path in _FORWARDING:
        if path.exists():
            path.write_text("0")
    for fix in ("iptables", "ip6tables", "arptables"):
        path = _BRIDGE / f"bridge-nf-call-{fix}"
        if path.exists():
            path.write_text("0")


@remote
def build(topology: Topology) -> None:
    """Make every bridge and TAP of a topology that is in no Xen host, and the management bridge.

    Runs inside the sandbox. Raises `HostError` where the kernel lacks a part.
    """
    with pyroute2.IPRoute() as ip:
        try:
            make_bridge(ip, MGMT_BRIDGE, mtu=1500, stp=False, ipv6=True)
            for network in topology.outer_networks():
                _build_network(ip, network)
            for node in topology.outer_machines():
                make_tap(ip, node.mgmt_tap, MGMT_BRIDGE, 1500)
                guard(ip, node.mgmt_tap, MGMT_BRIDGE, _behind(topology, node))
                _plug(ip, topology, node)
            for network in topology.outer_networks():
                _patch(topology, network)
        except pyroute2.NetlinkError as reason:
            if reason.code == errno.EOPNOTSUPP:
                raise HostError(
                    "this kernel has no bridge or TUN support",
                    "as root, run: modprobe bridge; modprobe tun",
                ) from None
            raise


@remote
def build_more(topology: Topology, networks: Sequence[str], nodes: Sequence[str]) -> None:
    """Make the bridges of networks and the TAPs of nodes in a lab that runs.

    A node that was there before has its management TAP still. Raises `HostError` as `build` does.
    """
    with pyroute2.IPRoute() as ip:
        for name in networks:
            _build_network(ip, topology.networks[name])
        for node in topology.outer_machines():
            if node.name not in nodes:
                continue
            if not ip.link_lookup(ifname=node.mgmt_tap):
                make_tap(ip, node.mgmt_tap, MGMT_BRIDGE, 1500)
                guard(ip, node.mgmt_tap, MGMT_BRIDGE, _behind(topology, node))
            _plug(ip, topology, node)


def _plug(ip: pyroute2.IPRoute, topology: Topology, node: Node) -> None:
    for interface in node.interfaces:
        bridge = topology.networks[interface.network].bridge_of(interface.segment)
        make_tap(ip, interface.tap, bridge, interface.mtu)


def _patch(topology: Topology, network: Network) -> None:
    """Let what comes in by one of two ports of a patched segment go out by the other."""
    for segment in network.segments:
        if not segment.plan.patch:
            continue
        one, other = [
            *(
                interface.tap
                for node in topology.outer_machines()
                for interface in node.interfaces
                if (interface.network, interface.segment) == (network.name, segment.name)
            ),
            *network.wires_at(segment.name),
        ]
        for link, to in ((one, other), (other, one)):
            planned.redirect(Redirect(link, to, completes=segment.plan.patch == "csum"))


def _behind(topology: Topology, node: Node) -> list[str]:
    """Return the MACs by which a node is controlled, and the guests on it of a Xen host."""
    guests = topology.inside(node.name).nodes if node.guest_kind.is_host else ()
    return [one.mgmt_mac for one in (node, *guests)]


def _build_network(ip: pyroute2.IPRoute, network: Network) -> None:
    if not network.segments:
        make_bridge(
            ip, network.bridge, mtu=network.mtu, stp=network.stp, addresses=network.addresses
        )
        return
    masters: dict[str, str] = {}
    for segment in network.segments:
        plan = segment.plan
        bridges = [link.name for link in plan.links if link.type == "bridge" and not link.netns]
        for name in bridges:
            addresses = network.addresses if name == network.bridge else ()
            make_bridge(ip, name, mtu=network.mtu, stp=network.stp, addresses=addresses)
        planned.make(network, plan, bridges)
        for link in plan.links:
            masters |= {link.name: link.master, link.peer: link.peer_master}
    for before, wire, after in network.joined():
        one, other = wire.plan.ends
        masters |= {one: before.plan.bridge, other: after.plan.bridge}
    for segment in network.segments:
        planned.finish(segment.plan, masters)


@remote
def build_bridges(mgmt: str, networks: Iterable[Network]) -> None:
    """Make bridges of networks that have nothing but bridges, and a management bridge: in a dom0.

    The kernel of a Xen host makes the ports: each vif comes with its guest.
    """
    with pyroute2.IPRoute() as ip:
        make_bridge(ip, mgmt, mtu=1500, stp=False, ipv6=True)
        for network in networks:
            _build_network(ip, network)


@remote
def hush_ports(bridges: Mapping[str, str], mgmt: str, macs: Mapping[str, str]) -> None:
    """Let ports that others made, such as vifs, not speak themselves; `bridges` has theirs by port.

    Those on the bridge `mgmt` are guarded: each is for the one of `macs` that it has there. Raises
    `HostError` for one that is not on its bridge.
    """
    found = {link.name: link.master for link in links()}
    for port, bridge in bridges.items():
        if found.get(port) != bridge:
            where = f"on {found[port]}" if found.get(port) else "on no bridge"
            raise HostError(
                f"{port} is {where}, not on {bridge}",
                "the script vif-bridge of that host puts vifs elsewhere",
            )
        _disable_ipv6(port)
    with pyroute2.IPRoute() as ip:
        for port, mac in macs.items():
            guard(ip, port, mgmt, [mac])


def names(topology: Topology) -> list[str]:
    """Return the names of all links that `build` makes."""
    return [
        MGMT_BRIDGE,
        *(link for network in topology.outer_networks() for link in network.links()),
        *(node.mgmt_tap for node in topology.outer_machines()),
        *(one.tap for node in topology.outer_machines() for one in node.interfaces),
    ]


@remote
def remove(topology: Topology) -> None:
    """Take away what `build` made; no error where it is gone already."""
    planned.remove_namespaces(topology.outer_networks())
    remove_links(names(topology))


@remote
def remove_links(names: Iterable[str]) -> None:
    """Take links away by their names; no error where one is gone already."""
    with pyroute2.IPRoute() as ip:
        for name in names:
            for index in ip.link_lookup(ifname=name):
                ip.link("del", index=index)


@remote
def is_up(name: str, netns: str = "") -> bool:
    """Whether a link of a network namespace has been set up; False where there is none."""
    return inside(netns, _is_up, name)


def _is_up(name: str) -> bool:
    with pyroute2.IPRoute() as ip:
        return any(one["flags"] & IFF_UP for one in ip.get_links(ifname=name))


@remote
def set_up(name: str, up: bool) -> None:
    """Set a link up or down; of a veth pair the other end loses its carrier with it.

    Raises `HostError` where there is none.
    """
    with pyroute2.IPRoute() as ip:
        found = ip.link_lookup(ifname=name)
        if not found:
            raise HostError(f"the link {name} is gone", "run: labctl status")
        ip.link("set", index=found[0], state="up" if up else "down")


@remote
def bridges_filter(version: int) -> bool:
    """Whether bridges hand packets of an IP version to the packet filter (br_netfilter)."""
    fix = _BRIDGE / ("bridge-nf-call-iptables" if version == 4 else "bridge-nf-call-ip6tables")
    return fix.exists() and fix.read_text().strip() != "0"


@remote
def links(netns: str = "") -> list[Link]:
    """List the links of a network namespace, by default the one this runs in."""
    return inside(netns, _links)


def _links() -> list[Link]:
    with pyroute2.IPRoute() as ip:
        raw = list(ip.get_links())
    known = {link["index"]: link.get_attr("IFLA_IFNAME") for link in raw}
    found = []
    for link in raw:
        info = link.get_attr("IFLA_LINKINFO")
        master = link.get_attr("IFLA_MASTER")
        found.append(
            Link(
                name=link.get_attr("IFLA_IFNAME"),
                kind=(info.get_attr("IFLA_INFO_KIND") if info else "") or "",
                mac=link.get_attr("IFLA_ADDRESS") or "",
                mtu=link.get_attr("IFLA_MTU"),
                up=link["state"] == "up",
                master=known.get(master, "") if master else "",
            )
        )
    return found
