"""Topologies of the catalogue's rows: two guests, and what lies between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labctl.topology.overrides import EVERY_NIC, EVERY_NIC_MEMORY

Mapped = dict[str, Any]
"""A topology as its file would say it, or a part of one."""


def bridged(wire: Mapped | None = None) -> Mapped:
    """Return two guests on one network; with a `wire`, it has two segments that this joins."""
    lan: Mapped = {"subnets": ["10.0.1.0/24", "fd00:1::/64"]}
    if wire:
        lan["segments"] = {"near": {}, "wire": wire, "far": {}}
    nodes: Mapped = {}
    for number, (name, segment) in enumerate((("vm1", "near"), ("vm2", "far")), 1):
        interface: Mapped = {
            "network": "lan", "addresses": [f"10.0.1.{number}/24", f"fd00:1::{number}/64"]
        }  # fmt: skip
        if wire:
            interface["segment"] = segment
        nodes[name] = {"interfaces": [interface]}
    return {"name": "row", "networks": {"lan": lan}, "nodes": nodes}


def patched(options: Mapping[str, Any] | None = None) -> Mapped:
    """Return two guests on one network: vm1 at a bridge, vm2's TAP redirected to a veth's end."""
    made = bridged({"kind": "veth"})
    lan = made["networks"]["lan"]
    far = {"kind": "tc-patch", **({"options": dict(options)} if options else {})}
    segments = {**lan["segments"], "far": far}
    return {**made, "networks": {"lan": {**lan, "segments": segments}}}


def with_nics(topology: Mapped, first: str = "", second: str = "") -> Mapped:
    """Return a topology whose guests have NICs of these models; as it is where one is empty."""
    nodes = dict(topology["nodes"])
    for name, model in (("vm1", first), ("vm2", second)):
        if model:
            (interface,) = nodes[name]["interfaces"]
            nodes[name] = {
                **nodes[name],
                "interfaces": [{**interface, "model": model}],
                "image": EVERY_NIC,
                "memory": EVERY_NIC_MEMORY,
            }
    return {**topology, "nodes": nodes}


def with_namespaces(topology: Mapped, *names: str) -> Mapped:
    """Return a topology of which these nodes are network namespaces and no guests."""
    nodes = {
        name: {**node, "kind": "namespace"} if name in names else node
        for name, node in topology["nodes"].items()
    }
    return {**topology, "nodes": nodes}


def with_guest_router(topology: Mapped, model: str = "") -> Mapped:
    """Return a topology whose only router is a guest with NICs of a model."""
    (router,) = topology["routers"].values()
    interfaces = [{**one, **({"model": model} if model else {})} for one in router["interfaces"]]
    guest: Mapped = {"role": "router", "interfaces": interfaces}
    if model:
        guest |= {"image": EVERY_NIC, "memory": EVERY_NIC_MEMORY}
    rest = {key: value for key, value in topology.items() if key != "routers"}
    return {**rest, "nodes": {**topology["nodes"], "r1": guest}}


def routed(*kinds: str, options: Mapping[str, Any] | None = None) -> Mapped:
    """Return two guests with routers of these kinds between them, one network before each and last.

    `options` are for the first router.
    """
    count = len(kinds)
    names = [f"n{number}" for number in range(1, count + 2)]
    networks = {
        name: {"subnets": [f"10.0.{at}.0/24", f"fd00:{at}::/64"]}
        for at, name in enumerate(names, 1)
    }
    nodes = {
        name: {
            "interfaces": [
                {"network": network, "addresses": [f"10.0.{at}.{own}/24", f"fd00:{at}::{own}/64"]}
            ],
            "routes": [
                {"to": "default", "via": f"10.0.{at}.{gate}"},
                {"to": "default", "via": f"fd00:{at}::{gate:x}"},
            ],
        }
        for name, network, at, own, gate in (
            ("vm1", names[0], 1, 1, 254),
            ("vm2", names[-1], count + 1, 2, 253),
        )
    }
    routers: Mapped = {}
    for number, kind in enumerate(kinds, 1):
        router: Mapped = {
            "kind": kind,
            "interfaces": [
                {"network": names[at - 1],
                 "addresses": [f"10.0.{at}.{own}/24", f"fd00:{at}::{own:x}/64"]}
                for at, own in ((number, 254), (number + 1, 253))
            ],
        }  # fmt: skip
        routes = [
            {"to": f"{prefix}", "via": via}
            for at in range(1, count + 2)
            for prefix, via in _ways(number, at)
        ]
        if routes:
            router["routes"] = routes
        if options and number == 1:
            router["options"] = dict(options)
        routers[f"r{number}"] = router
    return {"name": "row", "networks": networks, "nodes": nodes, "routers": routers}


def with_wire(topology: Mapped, wire: Mapped) -> Mapped:
    """Return a routed topology whose first network has a wire between vm1 and the router r1."""
    networks, nodes, routers = (dict(topology[key]) for key in ("networks", "nodes", "routers"))
    networks["n1"] = {**networks["n1"], "segments": {"near": {}, "wire": wire, "far": {}}}
    for part, name, segment in ((nodes, "vm1", "near"), (routers, "r1", "far")):
        first, *others = part[name]["interfaces"]
        part[name] = {**part[name], "interfaces": [{**first, "segment": segment}, *others]}
    return {**topology, "networks": networks, "nodes": nodes, "routers": routers}


def _ways(router: int, network: int) -> list[tuple[str, str]]:
    """Return how a router gets to a network that it is not on: (prefix, next hop)."""
    if network in (router, router + 1):
        return []
    at, own = (router, 253) if network < router else (router + 1, 254)
    prefixes = (f"10.0.{network}.0/24", f"fd00:{network}::/64")
    return list(zip(prefixes, (f"10.0.{at}.{own}", f"fd00:{at}::{own:x}"), strict=True))
