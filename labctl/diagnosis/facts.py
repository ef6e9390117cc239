"""What a lab tells besides its packets: who listens, who forwards, who filters a bridge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from labctl.guests.ethtool import Feature
from labctl.kinds import registry
from labctl.lab.hop_links import is_up
from labctl.lab.lab import Lab
from labctl.lab.node import Node
from labctl.network import links
from labctl.topology.points import ObservationPoint
from labctl.tracing.flow import Flow

_LISTEN, _UNCONNECTED = "0A", "07"
"""States in /proc/net/tcp and udp (kernel: include/net/tcp_states.h)."""


@dataclass(frozen=True)
class Facts:
    """What is known of a lab around a flow."""

    listening: bool | None = None
    """Whether a socket of the destination waits on the port; None where that has no meaning."""
    route: str = ""
    """How the source's kernel would send it, as `ip route get` says; empty where it cannot."""
    route_back: bool = True
    """Whether the destination's kernel knows a way to the source's address."""
    down: tuple[str, ...] = ()
    """The hops of the way whose link is down."""
    forwards: dict[str, bool] = field(default_factory=dict)
    """By router of the way: whether anything forwards there."""
    kinds: dict[str, str] = field(default_factory=dict)
    """By router of the way: its kind now, empty for none."""
    bridge_netfilter: bool = False
    """Whether bridges of the way hand this family's packets to the packet filter."""
    finishing: tuple[str, ...] = ()
    """The ends whose guests finish their checksums themselves already."""
    nics: dict[str, str] = field(default_factory=dict)
    """By end: the model of its NIC, as far as the topology has it."""


def gather(lab: Lab, flow: Flow, path: Sequence[ObservationPoint]) -> Facts:
    """Read the facts; raises `LabctlError` when the lab cannot be asked."""
    source, destination = path[0], path[-1]
    routers = list(dict.fromkeys(hop.element for hop in path if hop.of_router))
    forwards: dict[str, bool] = {}
    kinds: dict[str, str] = {}
    for name in routers:
        if not lab.topology.answers(name):
            continue  # whether it forwards is seen from outside
        router = lab.forwarder(name)
        kinds[name] = router.kind or ""
        forwards[name] = router.forwards()
    result = lab.node(source.element).run(["ip", "route", "get", flow.destination], check=False)
    answer = ["ip", "route", "get", flow.source or flow.destination]
    bridges = {hop.context for hop in path if hop.at_bridge}
    ends = [hop for hop in (source, destination) if _known(lab, hop)]
    asked = lab.topology.answers(destination.element)
    return Facts(
        listening=_listening(lab, flow, destination.element) if asked else None,
        route=" ".join(result.stdout[:1000].split()) if result.ok else "",
        route_back=not asked or lab.node(destination.element).run(answer, check=False).ok,
        down=tuple(hop.name for hop in path if not is_up(lab, hop)),
        forwards=forwards,
        kinds=kinds,
        bridge_netfilter=any(
            lab.place(host).call(links.bridges_filter, flow.version) for host in bridges
        ),
        finishing=tuple(
            hop.element for hop in ends if _completes(lab.node(hop.element), hop.link, flow.version)
        ),
        nics={hop.element: lab.node(hop.element).interface(hop.link).model for hop in ends},
    )


def left_to_device(features: Mapping[str, Feature], version: int) -> bool:
    """Tell whether a guest's driver takes it on to complete the checksums of an IP version.

    Raises `GuestError` where `features` do not tell.
    """
    names = ("tx-checksum-ip-generic", f"tx-checksum-ipv{version}")
    told = [features[name].active for name in names if name in features]
    return any(told) if told else features["tx-checksumming"].active


def _completes(node: Node, interface: str, version: int) -> bool:
    if node.offloads_untold:
        return False
    if not left_to_device(node.features(interface), version):
        return True
    ways = registry.nic(node.interface(interface).model).completions(version)
    if not any(way.csum_action for way in ways):
        return False
    told = node.run(f"tc filter show dev {interface} egress", check=False)
    return told.ok and "csum" in told.stdout


def _known(lab: Lab, hop: ObservationPoint) -> bool:
    """Tell whether the topology has the device: others have features nobody here would change."""
    return hop.inside and any(
        one.name == hop.link for one in lab.node(hop.element).model.interfaces
    )


def _listening(lab: Lab, flow: Flow, destination: str) -> bool | None:
    if flow.protocol == "icmp":
        return None
    # A socket of IPv6 usually serves IPv4 too.
    tables = [flow.protocol + "6"] + ([flow.protocol] if flow.version == 4 else [])
    files = " ".join(f"/proc/net/{name}" for name in tables)
    state = _LISTEN if flow.protocol == "tcp" else _UNCONNECTED
    return lab.node(destination).ask(
        f"cat {files} 2>/dev/null || true", lambda text: listens(text, flow.port or 0, state)
    )


def listens(text: str, port: int, state: str = _LISTEN) -> bool:
    """Tell from the lines of /proc/net/tcp or udp whether a socket on `port` is in `state`."""
    for line in text.splitlines():
        words = line.split()
        if len(words) < 4 or ":" not in words[1] or not words[0].endswith(":"):
            continue
        if int(words[1].rpartition(":")[2], 16) == port and words[3] == state:
            return True
    return False
