"""The experiments that come with labctl."""

from labctl.experiments.builtin.bridged import bridged
from labctl.experiments.builtin.effects import effects
from labctl.experiments.builtin.offload import offload
from labctl.experiments.builtin.router_hop import router_hop
from labctl.experiments.builtin.xen_bridged import xen_bridged
from labctl.experiments.builtin.xen_offload import xen_offload
from labctl.experiments.builtin.xen_router_hop import xen_router_hop
from labctl.experiments.builtin.xen_to_virtio import xen_to_virtio
from labctl.experiments.model import Experiment

BUILTIN: dict[str, Experiment] = {
    one.name: one
    for one in (
        bridged,
        router_hop,
        offload,
        xen_bridged,
        xen_router_hop,
        xen_offload,
        xen_to_virtio,
        effects,
    )
}
