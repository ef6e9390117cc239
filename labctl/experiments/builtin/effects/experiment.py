"""Any topology: what the kinds on every path are said to do is what is seen there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from labctl.errors import UsageError
from labctl.experiments.builtin.router_hop.experiment import IP
from labctl.experiments.expectations import check_path
from labctl.experiments.model import experiment
from labctl.experiments.run_context import Arm, Trial
from labctl.experiments.text_tables import table
from labctl.experiments.traffic_run import TrafficRun
from labctl.experiments.variants import Axis, Case
from labctl.kinds import registry
from labctl.topology import Topology
from labctl.topology.graph import (
    ForwardingGuest,
    GuestElement,
    PacketPath,
    Port,
    RouterElement,
    find_path,
)


@dataclass(frozen=True)
class Pair:
    """Two guests that a path joins."""

    source: str
    destination: str
    versions: frozenset[int]
    """The IP versions of which both have an address at their end of the path."""
    what: str


def pairs(topology: Topology) -> Mapping[str, Axis]:
    """Return all pairs of guests that are joined, in both directions."""
    guests = [node.name for node in topology.endpoints()]
    found = {}
    for source, destination in itertools.permutations(guests, 2):
        try:
            path = find_path(topology, source, destination)
        except UsageError:
            continue  # nothing joins these two
        ends = (path.traversals[0].exit, path.traversals[-1].entry)
        versions = (
            _versions(one.element, port)
            for one, port in zip((path.traversals[0], path.traversals[-1]), ends, strict=True)
        )
        both = frozenset.intersection(*versions)
        found[f"{source} to {destination}"] = Pair(source, destination, both, _what(path))
    if not found:
        raise UsageError(
            f"the topology {topology.name} has no two guests that a network or router joins"
        )
    return {"pair": found, "ip": IP}


def _versions(element: object, port: Port | None) -> frozenset[int]:
    assert isinstance(element, GuestElement)
    return frozenset(
        address.version
        for one in element.node.interfaces
        if port and one.name == port.interface
        for address in one.addresses
    )


def _what(path: PacketPath) -> str:
    """Say what is on a path that may change a packet."""
    told = []
    for one in path.traversals:
        if isinstance(one.element, RouterElement):
            router = one.element.router
            effect = registry.forwarder(router.kind).effect
            told.append(f"{router.name} ({router.kind}: {effect.value})")
        elif isinstance(one.element, ForwardingGuest):
            guest, kind = one.element.node, one.element.kind
            told.append(f"{guest.name} (a {guest.guest_kind.title}: {kind.effect.value})")
    return f"through {', '.join(told)}" if told else "no router on the way"


def _describe(case: Case) -> str:
    pair: Pair = case["pair"]
    return pair.what


def _story(found: Mapping[str, TrafficRun]) -> list[str]:
    lines = [
        "What a packet is at each hop follows from what its sender left and what each element on",
        "its way does to an unfinished checksum: it keeps the metadata, loses it, completes the",
        "sum, or verifies it. The first packet of SSH (SYN) on every path:",
        "",
    ]
    for name, one in found.items():
        lines += [f"{name}:", "", *table({"SYN": (one.steps(one.syn), one.ssh)}), ""]
    return lines


@experiment(
    "effects",
    topology="three-networks.yaml",
    hypothesis="On every path between two guests a packet is at each hop what the effects of the "
    "kinds before it make of it, and its receiver takes it, or not, accordingly.",
    variants=pairs,
    where=lambda case: case["ip"] in case["pair"].versions,
    describe=_describe,
    story=_story,
)
def effects(trial: Trial, arm: Arm, case: Case) -> TrafficRun:
    """Any topology: every hop shows what the kinds on the way are said to do to checksums."""
    pair: Pair = case["pair"]
    return check_path(trial, arm, pair.source, pair.destination, case["ip"])
