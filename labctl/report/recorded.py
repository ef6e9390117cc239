"""What the hops of a recorded capture are: the path, and what each hop belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.capture.session import Evidence
from labctl.lab.path import Hop, node_hops, router_hops
from labctl.topology.model import Topology


def path_of(evidence: Evidence, nodes: Sequence[str], topology: Topology | None) -> tuple[Hop, ...]:
    """Return the path that the hops of `evidence` are, with what each belongs to.

    The topology tells; without one (an older record) the names do, `nodes` being the guests.
    """
    known = _known(topology) if topology else {}
    names = [hop.hop for hop in evidence.hops]
    found = []
    for number, name in enumerate(names):
        if name in known:
            found.append(known[name])
            continue
        owner, inside, link = name.partition(":")
        if inside:
            found.append(Hop(name, "guest" if owner in nodes else "router", owner, link))
            continue
        beside = [n for n in names[max(0, number - 1) : number + 2] if ":" in n]
        owners = [n.partition(":")[0] for n in beside]
        owner = next((o for o in owners if name.startswith(o)), owners[0] if owners else name)
        found.append(Hop(name, "host", owner, name))
    return tuple(found)


def _known(topology: Topology) -> dict[str, Hop]:
    hops: list[Hop] = []
    for node in topology.nodes.values():
        for one in node.interfaces:
            hops += node_hops(node, one)
    for router in topology.routers.values():
        for port in router.interfaces:
            hops += router_hops(router, port)
    return {hop.name: hop for hop in hops}
