"""The topology: what the user wrote, checked and resolved; knows nothing of any host.

`load`, `loads` and `from_mapping` give a `Topology` or raise `TopologyError` with every problem.
"""

from labctl.topology.features import FEATURES, kernel_names
from labctl.topology.load import find, from_mapping, load, loads, shipped
from labctl.topology.model import (
    MGMT_BRIDGE,
    Interface,
    Network,
    Node,
    Offload,
    Route,
    Router,
    RouterInterface,
    RouterKind,
    Topology,
)
from labctl.topology.problems import Problem, TopologyError
from labctl.topology.shape import schema

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
    "RouterKind",
    "Topology",
    "TopologyError",
    "find",
    "from_mapping",
    "kernel_names",
    "load",
    "loads",
    "schema",
    "shipped",
]
