"""The topology: what the user wrote, checked and resolved; knows nothing of any host.

`load`, `loads` and `from_mapping` give a `Topology` or raise `TopologyError` with every problem.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labctl.topology.features import FEATURES, kernel_names
    from labctl.topology.loader import from_mapping, load, loads
    from labctl.topology.lookup import find, find_shipped, shipped
    from labctl.topology.model import (
        MGMT_BRIDGE,
        Interface,
        Network,
        Node,
        Offload,
        Route,
        Router,
        RouterInterface,
        Topology,
    )
    from labctl.topology.problems import Problem, TopologyError
    from labctl.topology.schema import json_schema

__all__ = [
    "FEATURES",
    "MGMT_BRIDGE",
    "Interface",
    "Network",
    "Node",
    "Offload",
    "Problem",
    "Route",
    "Router",
    "RouterInterface",
    "Topology",
    "TopologyError",
    "find",
    "find_shipped",
    "from_mapping",
    "json_schema",
    "kernel_names",
    "load",
    "loads",
    "shipped",
]

_ELSEWHERE = {
    **dict.fromkeys(("FEATURES", "kernel_names"), "features"),
    **dict.fromkeys(("Problem", "TopologyError"), "problems"),
    **dict.fromkeys(("find", "find_shipped", "shipped"), "lookup"),
    **dict.fromkeys(("from_mapping", "load", "loads"), "loader"),
    "json_schema": "schema",
}
"""Where a name comes from when it is not the model."""


def __getattr__(name: str) -> object:
    """Import on first use: the model is light, but reading needs YAML and pydantic.

    Verbs on a running lab and the processes inside it know the model only, and start in half the
    time without the rest.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'model')}"), name)
