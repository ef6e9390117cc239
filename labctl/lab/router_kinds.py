"""What forwards in the routers of a running lab now."""

from __future__ import annotations

from labctl.lab.lab import Lab


def router_kinds(lab: Lab) -> dict[str, str]:
    """Return the kind of each router, and of each node that is one, while something forwards there.

    Raises as `Node.run` does.
    """
    names = [*lab.topology.routers, *(node.name for node in lab.topology.forwarding_nodes())]
    kinds = {name: lab.forwarder(name).kind for name in names}
    return {name: kind for name, kind in kinds.items() if kind}
