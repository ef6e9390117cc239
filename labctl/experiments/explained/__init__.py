"""What each built-in experiment is about: mechanism, hop by hop, evidence expected, cures.

`find(name)` gives the explanation as data; `telling.resolve` joins it with the experiment and the
topology it runs on; `page.lines` makes a page of text.
"""

from __future__ import annotations

from importlib import import_module

from labctl.errors import UsageError, nearest
from labctl.experiments.explained.model import Explanation

_MODULES = {
    "bridged": "bridged",
    "router-hop": "router_hop",
    "offload": "offload",
    "xen-bridged": "bridged",
    "xen-router-hop": "router_hop",
    "xen-offload": "offload",
    "xen-to-virtio": "xen_to_virtio",
    "effects": "effects",
}

NAMES = tuple(_MODULES)
"""The experiments that are explained."""


def find(name: str) -> Explanation:
    """Return an experiment's explanation; raises `UsageError` for a name that has none."""
    if name not in _MODULES:
        near = nearest(name, NAMES)
        known = f"there are: {', '.join(NAMES)}"
        hint = f"{near} {known}" if near.startswith("did you mean") else known
        raise UsageError(f"there is no experiment {name} to explain", hint)
    module = import_module(f"{__name__}.{_MODULES[name]}")
    found: tuple[Explanation, ...] = module.ALL
    return next(one for one in found if one.name == name)
