"""What the hops of a recorded capture are: the path, and what each hop belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from labctl.capture.session import Evidence
from labctl.topology.graph import points_of
from labctl.topology.model import Topology
from labctl.topology.points import (
    ElementKind,
    ObservationPoint,
    inside_guest,
    inside_router,
    inside_uplink,
    outer_end,
)

_INSIDE: Mapping[ElementKind, Callable[[str, str], ObservationPoint]] = {
    "guest": inside_guest,
    "router": inside_router,
    "uplink": inside_uplink,
}


def path_of(
    evidence: Evidence, nodes: Sequence[str], topology: Topology | None
) -> tuple[ObservationPoint, ...]:
    """Return the path that the hops of `evidence` are, with what each belongs to.

    The topology tells; without one (an older record) the names do, `nodes` being the guests, of
    which a path passes Xen hosts only. Which dom0 a hop is in is not known then.
    """
    known = points_of(topology) if topology else {}
    names = [hop.hop for hop in evidence.hops]
    owners = [_owner(names, number) for number in range(len(names))]
    found = []
    for number, (name, owner) in enumerate(zip(names, owners, strict=True)):
        base, at, observer = name.partition("@")
        if base in known:
            point = known[base]
            found.append(replace(point, name=name, observer=observer) if at else point)
            continue
        kind: ElementKind = "guest" if owner in nodes else "router"
        if kind == "guest" and not topology and _is_passed(names, owners, number):
            kind = "uplink"
        _, inside, link = name.partition(":")
        found.append(_INSIDE[kind](owner, link) if inside else outer_end(kind, owner, name))
    return tuple(found)


def _is_passed(names: Sequence[str], owners: Sequence[str], number: int) -> bool:
    """Tell whether a hop is an end of an interface whose other end is passed too, in mid-path."""
    if owners[number] in (owners[0], owners[-1]):
        return False
    beside = range(max(0, number - 1), min(len(names), number + 2))
    inside = {":" in names[one] for one in beside if owners[one] == owners[number]}
    return len(inside) == 2


def _owner(names: Sequence[str], number: int) -> str:
    """Return whose a hop is by its name, or by the names beside it."""
    name = names[number]
    if ":" in name:
        return name.partition(":")[0]
    beside = [one for one in names[max(0, number - 1) : number + 2] if ":" in one]
    owners = [one.partition(":")[0] for one in beside]
    return next((one for one in owners if name.startswith(one)), owners[0] if owners else name)
