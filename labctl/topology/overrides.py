"""A topology with one thing changed for all of its guests: the model of their NICs, offloads."""

from __future__ import annotations

from dataclasses import replace

from labctl.errors import UsageError, nearest, shown
from labctl.kinds import registry
from labctl.topology import kernels
from labctl.topology.features import in_order
from labctl.topology.model import Node, Topology

EVERY_NIC = "micro-generic"
"""The image that has the drivers of all NIC models."""
EVERY_NIC_MEMORY = 160
"""MiB that it needs to boot."""
_ONE_NIC = "micro"
_HINT = "write LAYER.FEATURE=on|off, such as guest.tx=off or tap.tso=off,device.csum=off"


def check_nic(model: str) -> None:
    """Raise `UsageError` for a NIC model that QEMU guests cannot have."""
    known = [one.name for one in registry.NICS.usable() if not one.home]
    if model not in known:
        raise UsageError(f"guests of QEMU have no NIC {shown(model)}", nearest(model, known))


def with_nic(topology: Topology, model: str) -> Topology:
    """Return a copy in which every guest has NICs of this model.

    Guests of `micro` boot the image that has all drivers then, whatever the model, so that two
    models differ in nothing else. Xen hosts and their guests keep theirs, as do namespaces. Raises
    `UsageError` for a model that there is not, or where no guest can have it.
    """
    check_nic(model)
    nodes = {
        node.name: _with_nic(node, model)
        for node in topology.nodes.values()
        if _is_machine(node) and node.interfaces
    }
    if not nodes:
        raise UsageError(f"no node of {topology.name} can have another NIC")
    return replace(topology, nodes={**topology.nodes, **nodes})


def _with_nic(node: Node, model: str) -> Node:
    found = replace(node, interfaces=tuple(replace(one, model=model) for one in node.interfaces))
    if kernels.image(node.image, "") != _ONE_NIC:
        return found
    return replace(
        found,
        image=kernels.image(EVERY_NIC, kernels.of(node)),
        memory=max(
            node.memory, kernels.memory(node.guest_kind, kernels.of(node)), EVERY_NIC_MEMORY
        ),
    )


def _is_machine(node: Node) -> bool:
    """Whether it is a guest of the lab's own QEMU, and no Xen host."""
    return node.guest_kind.is_endpoint and not node.host and bool(node.image or node.disk)


def with_offload(topology: Topology, words: str) -> Topology:
    """Return a copy in which every interface of guests has these offloads, over its own.

    `words` are such as `guest.tx=off,tap.tso=off`. Raises `UsageError` for what is none.
    """
    told = read_offload(words)
    nodes = {}
    for node in topology.nodes.values():
        if not (_is_machine(node) and node.interfaces):
            continue
        changed = tuple(
            replace(
                one,
                offload=replace(
                    one.offload,
                    guest=in_order({**one.offload.guest, **told["guest"]}),
                    tap=in_order({**one.offload.tap, **told["tap"]}),
                    device=dict(sorted({**one.offload.device, **told["device"]}.items())),
                ),
            )
            for one in node.interfaces
        )
        nodes[node.name] = replace(node, interfaces=changed)
    if not nodes:
        raise UsageError(f"no node of {topology.name} can have other offloads")
    return replace(topology, nodes={**topology.nodes, **nodes})


def read_offload(words: str) -> dict[str, dict[str, bool]]:
    """Return what `guest.tx=off,tap.tso=off` says, by layer; raises `UsageError`."""
    from pydantic import ValidationError  # here: most verbs need neither

    from labctl.topology import schema

    written: dict[str, dict[str, str | bool]] = {"guest": {}, "tap": {}, "device": {}}
    for word in words.split(","):
        place, equals, value = word.strip().partition("=")
        layer, dot, feature = place.partition(".")
        if not (equals and dot) or layer not in written or value not in ("on", "off"):
            raise UsageError(f"{shown(word)} is no offload", _HINT)
        written[layer][feature] = value == "on"
    try:
        found = schema.Offload.model_validate(written)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(
            f"{shown(words)}: {first['msg']}", str(first.get("ctx", {}).get("hint", "")) or _HINT
        ) from None
    return {"guest": found.guest, "tap": found.tap, "device": found.device}
