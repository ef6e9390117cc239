"""FRR brings the routes by OSPF or BGP; the kernel forwards."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from labctl.kinds.base import Effect, RunningRouter
from labctl.kinds.forwarders.namespace import Namespace

PROGRAMS = "/usr/lib/frr"
MOST_INTERFACES = 16
"""Of a node."""


_TELL_OSPF6D = (
    "while ! [ -S /run/frr/ospf6d.vty ]; do sleep 0.1; done",
    "for path in /sys/class/net/eth*; do",
    '    vtysh -d ospf6d -c "configure terminal" -c "interface ${path##*/}"'
    ' -c "ipv6 ospf6 area 0.0.0.0" -c "ipv6 ospf6 hello-interval 2"'
    ' -c "ipv6 ospf6 dead-interval 10" >/dev/null',
    "done",
)
"""ospf6d of FRR 8.4 takes nothing of interfaces from its file: it is told when it runs."""


@dataclass(frozen=True)
class FrrOptions:
    """Which protocols bring the routes, and from whom."""

    ospf: bool = field(
        default=True, metadata={"help": "OSPFv2 and OSPFv3 on every interface, in area 0."}
    )
    asn: int = field(default=0, metadata={"help": "The router's AS; 0 for no BGP."})
    neighbors: str = field(
        default="",
        metadata={"help": "Addresses of BGP neighbours in other ASes, with spaces between."},
    )

    def __post_init__(self) -> None:
        """Raise `ValueError` for what is no AS, no address, or asks for nothing at all."""
        if not 0 <= self.asn < 1 << 32:
            raise ValueError(f"asn {self.asn} is no number of an AS")
        if bool(self.asn) != bool(self.neighbors.split()):
            raise ValueError("BGP needs both asn and neighbors")
        if not (self.ospf or self.asn):
            raise ValueError("it has neither OSPF nor BGP: use the forwarder namespace")
        for one in self.neighbors.split():
            ipaddress.ip_address(one)


class Frr(Namespace):
    """zebra, ospfd, ospf6d and bgpd of FRR give the kernel its routes."""

    name = "frr"
    summary = "the kernel forwards, by routes that FRR brings (OSPF, BGP)"
    effect = Effect.KEEPS
    mechanism = "zebra sets routes by rtnetlink(7); ip_forward() and ip6_forward() pass the skb on"
    options = FrrOptions
    only_in_guests = True

    def start(self, router: RunningRouter) -> None:
        """Write the daemons' files, start them, and let the kernel forward."""
        super().start(router)
        lines = ["set -e", "mkdir -p /run/frr /etc/frr"]
        for daemon, text in configuration(self.told(router)).items():
            file = f"/etc/frr/{daemon}.conf"
            lines.append(f"printf %s {shlex.quote(text)} >{file}")
            # Root's, in a guest that is a router and nothing else; no port for anybody to log in.
            lines.append(f"{PROGRAMS}/{daemon} -d -u root -g root -P 0 -f {file} >/dev/null")
            if daemon == "ospf6d":
                lines += _TELL_OSPF6D
        router.run(["sh", "-c", "\n".join(lines)])

    def stop(self, router: RunningRouter) -> None:
        """End the daemons, zebra last: it takes its routes away."""
        lines = [
            "for daemon in bgpd ospf6d ospfd zebra; do",
            "    file=/run/frr/$daemon.pid",
            "    [ -r $file ] || continue",
            "    read -r pid <$file",
            "    kill $pid 2>/dev/null || true",
            "    while kill -0 $pid 2>/dev/null; do sleep 0.2; done",
            "    rm -f $file",
            "done",
        ]
        router.run(["sh", "-c", "\n".join(lines)])

    def forwards(self, router: RunningRouter) -> bool:
        """Tell whether the kernel forwards, and every daemon still runs."""
        lines = [
            f"read -r pid </run/frr/{daemon}.pid && kill -0 $pid || echo {daemon}"
            for daemon in configuration(self.told(router))
        ]
        said: Any = router.run(["sh", "-c", "{ " + "; ".join(lines) + "; } 2>/dev/null"])
        return not said.stdout.strip() and super().forwards(router)


def configuration(told: FrrOptions) -> Mapping[str, str]:
    """Return the file of each daemon that is needed, in the order in which they are started.

    Hellos every 2 s, so that neighbours find each other within seconds of `up`; routers of one
    network choose the designated one after 10 s (RFC 2328, 9.4). Interfaces that there are not do
    no harm.
    """
    found = {"zebra": "ip nht resolve-via-default\nipv6 nht resolve-via-default\n"}
    interfaces = [f"eth{number}" for number in range(MOST_INTERFACES)]
    if told.ospf:
        redistribute = " redistribute bgp\n" if told.asn else ""
        for daemon, word in (("ospfd", "ip ospf"), ("ospf6d", "ipv6 ospf6")):
            found[daemon] = f"router {word.split()[1]}\n{redistribute}!\n" + "".join(
                f"interface {one}\n {word} area 0.0.0.0\n {word} hello-interval 2\n"
                f" {word} dead-interval 10\n!\n"
                for one in interfaces
            )
    if told.asn:
        found["bgpd"] = _bgp(told)
    return found


def _bgp(told: FrrOptions) -> str:
    neighbors = told.neighbors.split()
    lines = [f"router bgp {told.asn}", " no bgp ebgp-requires-policy", " timers bgp 3 20"]
    for one in neighbors:
        lines += [f" neighbor {one} remote-as external", f" neighbor {one} timers connect 2"]
    for family, version in (("ipv4", 4), ("ipv6", 6)):
        lines.append(f" address-family {family} unicast")
        lines += [f"  redistribute {what}" for what in ("connected", *_ospf(told, version))]
        for one in neighbors:
            same = ipaddress.ip_address(one).version == version
            lines.append(f"  {'' if same else 'no '}neighbor {one} activate")
        lines.append(" exit-address-family")
    return "\n".join([*lines, "!\n"])


def _ospf(told: FrrOptions, version: int) -> list[str]:
    return ["ospf" if version == 4 else "ospf6"] if told.ospf else []
