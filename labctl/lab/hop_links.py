"""Whether the links of hops are up, each asked where it is."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.lab.lab import Lab
from labctl.network import links
from labctl.topology.points import ObservationPoint


def is_up(lab: Lab, hop: ObservationPoint) -> bool:
    """Tell whether a hop's link is up (IFF_UP); raises `LabctlError` where nobody answers."""
    if hop.in_guest and hop.context:
        return lab.node(hop.context).ask(
            f"cat /sys/class/net/{hop.link}/flags",
            lambda text: not text.strip() or bool(int(text, 16) & links.IFF_UP),
            check=False,
        )
    return lab.place(hop.context).call(links.is_up, hop.link, hop.netns)


def troubles(lab: Lab, hops: Sequence[ObservationPoint]) -> list[str]:
    """Name the links on a path that are down, and those without a carrier, a sentence each.

    Raises `LabctlError` where nobody answers.
    """
    found = [f"the link {hop.name} is down" for hop in hops if not is_up(lab, hop)]
    lost = lab.link_troubles()
    names = {(hop.element, hop.link) for hop in hops if hop.in_guest}
    for node, interfaces in lost.items():
        for interface, why in interfaces.items():
            told = any(f"the link {end} is down" in found for end in why.split())
            if (node, interface) in names and not told:
                found.append(f"{node}:{interface} has no link: {why}")
    return found
