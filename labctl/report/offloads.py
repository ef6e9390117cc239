"""Offloads in effect: what an arm changed, and everything there was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labctl.report.gather import Arm
from labctl.results.model import Offloads
from labctl.topology.model import Topology


@dataclass(frozen=True)
class Change:
    """Features of one layer of one interface that were not as when the lab came up."""

    where: str
    """Interface and layer, such as `vm1/eth0, guest`."""
    on: tuple[str, ...]
    off: tuple[str, ...]


@dataclass(frozen=True)
class Changed:
    """Arms that had the same changes."""

    arms: tuple[str, ...]
    changes: tuple[Change, ...]


def changed(start: Offloads, arms: Sequence[Arm], topology: Topology | None) -> list[Changed]:
    """Return what was in effect in arms and not at the start; arms that equal it are left out.

    By `topology` the layers of a Xen lab have their names there: the vif, dom0.
    """
    found: dict[tuple[Change, ...], list[str]] = {}
    for arm in arms:
        changes = _changes(start, arm.result.offloads, topology)
        if changes:
            found.setdefault(changes, []).append(arm.name)
    return [Changed(tuple(names), changes) for changes, names in found.items()]


def _changes(start: Offloads, now: Offloads, topology: Topology | None) -> tuple[Change, ...]:
    found = []
    for interface, layers in now.items():
        for layer, features in layers.items():
            before = start.get(interface, {}).get(layer, {})
            other = {name: on for name, on in features.items() if before.get(name) != on}
            if before and other:
                on = tuple(sorted(name for name, value in other.items() if value))
                off = tuple(sorted(name for name, value in other.items() if not value))
                found.append(Change(_where(interface, layer, topology), on, off))
    return tuple(found)


def everything(start: Offloads, topology: Topology | None) -> list[Change]:
    """Return all features in effect at the start; layers as in `changed`."""
    return [
        Change(
            _where(interface, layer, topology),
            tuple(sorted(name for name, on in features.items() if on)),
            tuple(sorted(name for name, on in features.items() if not on)),
        )
        for interface, layers in start.items()
        for layer, features in layers.items()
        if features  # a NIC that is not virtio has no device features
    ]


def _where(interface: str, layer: str, topology: Topology | None) -> str:
    """Name a layer of an interface: the host's end of a PV guest's is a vif."""
    node = topology.nodes.get(interface.partition("/")[0]) if topology else None
    if node:
        kind = node.guest_kind
        layer = {"tap": kind.outer.name.lower(), "guest": kind.inner}.get(layer, layer)
    return f"{interface}, {layer}"
