"""The experiments that come with labctl: a folder each, with its code and what it is about.

They are declared as entry points like anybody's (pyproject.toml); the same list stands here, so
that they are found without a look at what is installed. Their topologies lie with all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from labctl.experiments.model import Experiment

_HERE = "labctl.experiments.builtin"
SHIPPED: Mapping[str, str] = {
    "bridged": f"{_HERE}.bridged.experiment:bridged",
    "router-hop": f"{_HERE}.router_hop.experiment:router_hop",
    "offload": f"{_HERE}.offload.experiment:offload",
    "xen-bridged": f"{_HERE}.xen_bridged.experiment:xen_bridged",
    "xen-router-hop": f"{_HERE}.xen_router_hop.experiment:xen_router_hop",
    "xen-offload": f"{_HERE}.xen_offload.experiment:xen_offload",
    "xen-to-virtio": f"{_HERE}.xen_to_virtio.experiment:xen_to_virtio",
    "effects": f"{_HERE}.effects.experiment:effects",
}
"""By name, where each is; in the order in which they are shown."""


def _load(place: str) -> Experiment:
    module, _, name = place.partition(":")
    made: Experiment = getattr(import_module(module), name)
    return made


BUILTIN: Mapping[str, Experiment] = {name: _load(place) for name, place in SHIPPED.items()}
