"""What must be done to a lab of one topology so that it is one of another."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from labctl.errors import UsageError
from labctl.topology.model import Network, Node, Router, Topology

_QUIET = ("labels",)
"""What changes nothing in a lab."""


@dataclass(frozen=True)
class Plan:
    """What a change takes: names, each with the reason where it was there before."""

    removed: dict[str, list[str]] = field(default_factory=dict)
    """`networks`, `nodes`, `routers` that go."""
    added: dict[str, list[str]] = field(default_factory=dict)
    """Those that come."""
    networks: dict[str, str] = field(default_factory=dict)
    """Networks that are made anew."""
    nodes: dict[str, str] = field(default_factory=dict)
    """Nodes that are restarted."""
    routers: dict[str, str] = field(default_factory=dict)
    """Routers that are made anew."""
    impaired: tuple[str, ...] = ()
    """Interfaces (`NODE:INTERFACE`) that only get another impairment."""

    def __bool__(self) -> bool:
        """Whether anything is to be done."""
        return any(bool(getattr(self, one.name)) for one in dataclasses.fields(self))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return dataclasses.asdict(self)

    def lines(self) -> Iterator[str]:
        """Say it, a line each."""
        for sort, names in self.removed.items():
            yield from (f"{sort.removesuffix('s')} {name} is removed" for name in names)
        for what, those in (("network", self.networks), ("router", self.routers)):
            yield from (f"{what} {name} is made anew ({why})" for name, why in those.items())
        yield from (f"node {name} is restarted ({why})" for name, why in self.nodes.items())
        for sort, names in self.added.items():
            yield from (f"{sort.removesuffix('s')} {name} is added" for name in names)
        yield from (f"{name} is impaired otherwise" for name in self.impaired)

    def gone(self, sort: str) -> list[str]:
        """Return the `networks`, `nodes` or `routers` that end, for good or to come back."""
        return [*self.removed.get(sort, ()), *getattr(self, sort)]

    def made(self, sort: str) -> list[str]:
        """Return those that are made or started."""
        return [*getattr(self, sort), *self.added.get(sort, ())]


def plan(before: Topology, after: Topology) -> Plan:
    """Return what turns a lab of `before` into one of `after`.

    Raises `UsageError` for what cannot be changed in a running lab: Xen hosts and what lives on
    them, and networks of several segments.
    """
    networks = _changed(before.networks, after.networks, ("labels", "subnets"))
    nodes = _changed(before.nodes, after.nodes, _QUIET)
    routers = _changed(before.routers, after.routers, _QUIET)
    for those, touched in ((after.nodes, nodes), (after.routers, routers)):
        for name, thing in those.items():
            for interface in thing.interfaces:
                if interface.network in networks and name not in touched:
                    touched[name] = f"network {interface.network}"
    removed = _only(before, after)
    added = _only(after, before)
    found = Plan(
        removed,
        added,
        networks,
        {name: why for name, why in nodes.items() if name not in added.get("nodes", ())},
        {name: why for name, why in routers.items() if name not in added.get("routers", ())},
        (
            *_impaired(before.nodes, after.nodes, nodes),
            *_impaired(before.routers, after.routers, routers),
        ),
    )
    _check(before, after, found)
    return found


def _impaired(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    touched: Mapping[str, str],
) -> Iterator[str]:
    """Yield the interfaces of what goes on that get another impairment."""
    for name, thing in after.items():
        if name not in before or name in touched:
            continue
        for old, new in zip(before[name].interfaces, thing.interfaces, strict=True):
            if old.impairment != new.impairment:
                yield f"{name}:{new.name}"


def _only(one: Topology, other: Topology) -> dict[str, list[str]]:
    found = {
        sort: [name for name in getattr(one, sort) if name not in getattr(other, sort)]
        for sort in ("networks", "nodes", "routers")
    }
    return {sort: names for sort, names in found.items() if names}


def _changed(
    before: Mapping[str, Any], after: Mapping[str, Any], quiet: tuple[str, ...]
) -> dict[str, str]:
    """Return the names of what is in both and not the same, with the keys that differ."""
    found = {}
    for name in before.keys() & after.keys():
        if keys := _differing(before[name], after[name], quiet):
            found[name] = ", ".join(keys)
    return {name: found[name] for name in after if name in found}


def _differing(
    one: Network | Node | Router, other: Network | Node | Router, quiet: tuple[str, ...]
) -> list[str]:
    return [
        part.name
        for part in dataclasses.fields(one)
        if part.name not in quiet and _bare(one, part.name) != _bare(other, part.name)
    ]


def _bare(thing: Network | Node | Router, key: str) -> Any:
    """Return a value; of interfaces without what can change while they are there."""
    value = getattr(thing, key)
    if key != "interfaces":
        return value
    return [
        [
            getattr(one, part.name)
            for part in dataclasses.fields(one)
            if part.name not in ("labels", "impairment")
        ]
        for one in value
    ]


def _check(before: Topology, after: Topology, found: Plan) -> None:
    down = "take the lab down, and bring it up again"
    for topology in (before, after):
        for sort in ("nodes", "routers"):
            for name in {*found.gone(sort), *found.made(sort)}:
                thing = getattr(topology, sort).get(name)
                if thing and (thing.host or getattr(thing, "hypervisor", "")):
                    raise UsageError(
                        f"{name} is a Xen host, or on one: it changes with its lab", down
                    )
                for interface in thing.interfaces if thing else ():
                    there = topology.networks[interface.network]
                    if any(segment.plan.patch for segment in there.segments):
                        what = f"{name} is patched into the network {there.name}"
                        raise UsageError(f"{what}: it changes with its lab", down)
        for name in {*found.gone("networks"), *found.made("networks")}:
            network = topology.networks.get(name)
            if network and network.segments:
                raise UsageError(f"the network {name} has segments: it changes with its lab", down)
