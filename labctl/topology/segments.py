"""What kinds make of a topology: the links of networks that are no single bridge, and options.

What is wrong is reported at its place in the file.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import Any

from labctl.errors import shown
from labctl.kinds import forwarders, links, registry
from labctl.kinds.base import MOST_BASE, LinkKind, LinkPlan, Option
from labctl.topology import model, options, schema
from labctl.topology.fields import LINK_NAME
from labctl.topology.tree import Loc, Report


def plan(written: schema.Topology, report: Report) -> dict[str, tuple[model.Segment, ...]]:
    """Return the segments of every network; none for one bridge, and for what is wrong.

    What is wrong goes into `report`.
    """
    made: dict[str, tuple[model.Segment, ...]] = {}
    taken = set(written.networks)
    for name, network in written.networks.items():
        loc: Loc = ("networks", name)
        before = len(report.problems)
        found = _segments(name, network or schema.Network(), loc, taken, report)
        made[name] = tuple(found) if len(report.problems) == before else ()
    return made


def router_options(written: schema.Topology, report: Report) -> dict[str, dict[str, Option]]:
    """Return what is said to what forwards in every router, nodes that are routers among them.

    What is wrong goes into `report`.
    """
    nodes = {
        name: options.read(
            registry.forwarder(node.forwarder or forwarders.DEFAULT),
            node.forwarder_options,
            ("nodes", name, "forwarder_options"),
            report,
        )[0]
        for name, node in written.nodes.items()
        if node.forwarder or node.forwarder_options
    }
    return nodes | {
        name: options.read(
            registry.forwarder(router.kind), router.options, ("routers", name, "options"), report
        )[0]
        for name, router in written.routers.items()
    }


def _segments(
    name: str, network: schema.Network, loc: Loc, taken: set[str], report: Report
) -> list[model.Segment]:
    if not network.segments:
        kind = registry.link(network.kind or links.DEFAULT)
        made = _segment(name, "", kind, network.options, loc, taken, report)
        if made is None or (kind.name == links.DEFAULT and not made.options):
            return []  # one bridge, of the network's own name
        if kind.joins:
            what = f"the kind {kind.name} joins segments, and {name} has no others"
            report.add((*loc, "kind"), what, "give it segments: one, this, and another one")
        return [made]
    for key in ("kind", "options"):
        if getattr(network, key):
            what = f"{name} has segments, and {key} is of one"
            report.add((*loc, key), what, f"move {key} to a segment", key=True)
    found = []
    for segment, written in network.segments.items():
        said = written or schema.Segment()
        at = (*loc, "segments", segment)
        kind = registry.link(said.kind)
        made = _segment(name, segment, kind, said.options, at, taken, report)
        if made is None:
            return []
        found.append(made)
    _in_turn(found, loc, report)
    return found


def _in_turn(segments: list[model.Segment], loc: Loc, report: Report) -> None:
    """Report neighbours that nothing joins, and wires that join nothing."""
    for before, after in zip([None, *segments], [*segments, None], strict=True):
        here = after or before
        assert here is not None
        at = (*loc, "segments", here.name)
        if (before is None or before.is_wire) and (after is None or after.is_wire):
            what = f"the wire {here.name} has nothing to join at one end"
            report.add(at, what, "put a segment of kind bridge there", key=True)
        elif before and after and not before.is_wire and not after.is_wire:
            what = f"nothing joins the segments {before.name} and {after.name}"
            report.add(at, what, "put a wire between them, such as {kind: veth}", key=True)


def _segment(
    network: str,
    name: str,
    kind: LinkKind[Any],
    given: dict[str, Any],
    loc: Loc,
    taken: set[str],
    report: Report,
) -> model.Segment | None:
    said, made_of = options.read(kind, given, (*loc, "options"), report)
    if made_of is None:
        return None
    whole = not name
    base = network if whole and kind.name == links.DEFAULT else _base(network, name, taken)
    try:
        planned = kind.plan(base, made_of)
        wrong = _wrong(planned, base, kind.joins)
    except Exception as fault:  # whatever a stranger's kind does
        wrong = f"{type(fault).__name__}: {fault}".splitlines()[0]
    if wrong:
        what = f"the link kind {shown(kind.name)} cannot plan its links: {wrong}"
        report.add((*loc, "kind"), what, "this is a fault of that kind")
        return None
    return model.Segment(name or network, kind.name, said, planned)


def _base(network: str, segment: str, taken: set[str]) -> str:
    """Return a name for the links of a segment, shortened where it must be, unlike all others."""
    whole = f"{network}-{segment}" if segment else network
    base, attempt = whole, 0
    while len(base) > MOST_BASE or (base in taken and base != network):
        mark = hashlib.sha256(f"{whole}\0{attempt}".encode()).hexdigest()[:4]
        base = f"{whole[: MOST_BASE - len(mark)]}{mark}"
        attempt += 1
    taken.add(base)
    return base


def _wrong(made: LinkPlan, base: str, joins: bool) -> str:
    """Say what is wrong with a plan; empty for nothing."""
    names = [name for link in made.links for name in link.names]
    for name in names:
        if not name.startswith(base) or len(name) > LINK_NAME:
            return f"{shown(name)} does not begin with {base}, or is longer than {LINK_NAME}"
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        return f"two links are called {twice[0]}"
    masters = [one for link in made.links for one in (link.master, link.peer_master) if one]
    named = [*masters, *made.ends, *made.points, *filter(None, [made.bridge])]
    named += [link.lower for link in made.links if link.lower]
    named += [name for one in made.redirects for name in (one.link, one.to)]
    if strange := [one for one in named if one not in names]:
        return f"{shown(strange[0])} is none of its links"
    if wrong := _wrongly_placed(made, base):
        return wrong
    called = [one.name for one in made.programs]
    for one in made.programs:
        if not (one.name.startswith(base) and re.fullmatch(r"[\w-]{1,40}", one.name)):
            return f"the program {shown(one.name)} does not begin with {base}, or is no name"
        if not (one.program and one.ready):
            return f"the program {one.name} says not what it is, or not when it is ready"
    if len(set(called)) < len(called):
        return "two programs have the same name"
    if (len(made.ends), bool(made.bridge)) != ((2, False) if joins else (0, True)):
        return "a wire has two ends and no bridge" if joins else "it has no bridge, or has ends"
    return ""


def _wrongly_placed(made: LinkPlan, base: str) -> str:
    """Say what is wrong with the namespaces of a plan; empty for nothing."""
    places = made.places()
    for name in filter(None, places.values()):
        if not (name.startswith(base) and re.fullmatch(r"[\w-]{1,40}", name)):
            return f"the namespace {shown(name)} does not begin with {base}, or is no name"
    beside = [(link.name, one) for link in made.links for one in (link.master, link.lower) if one]
    beside += [(link.peer, link.peer_master) for link in made.links if link.peer_master]
    beside += [(one.link, one.to) for one in made.redirects]
    for one, other in beside:
        if places[one] != places[other]:
            return f"{one} and {other} are in two namespaces"
    for name in (*made.ends, *filter(None, [made.bridge])):
        if places[name]:
            return f"{name} is in a namespace of its own, so nothing can be plugged into it"
    for program in made.programs:
        if program.netns and program.netns not in places.values():
            return f"{program.name} is to run in a namespace of which it has no link"
    addressed = [(link.name, link.address) for link in made.links]
    addressed += [(link.peer, link.peer_address) for link in made.links]
    if lost := [name for name, address in addressed if address and not places[name]]:
        return f"{lost[0]} has an address, and no namespace of its own"
    return ""
