"""What a lab's Xen hosts and the guests on them are made of, from its topology and state."""

from __future__ import annotations

from pathlib import Path

from labctl import backends
from labctl.backends.state import State
from labctl.errors import UsageError
from labctl.guests import spec, xen, xen_host
from labctl.guests.spec import Guest, Nic
from labctl.images import Image
from labctl.images.kernel import runs_as_dom0, runs_under_xen, unpacked
from labctl.kinds import nics as models
from labctl.topology.model import Node


def check(node: Node, image: Image) -> None:
    """Raise `UsageError` where a node of Xen's has an image or a kernel that Xen cannot start."""
    if node.hypervisor and image.hypervisor is None:
        raise UsageError(
            f"the image {image.name} of {node.name} holds no hypervisor",
            "give a Xen host the image xen-host, or one that extends it",
        )
    if not (node.hypervisor or node.host):
        return
    kernel = node.kernel or image.kernel
    try:
        elf = unpacked(kernel)
        runs = runs_under_xen(elf)
    except UsageError as wrong:
        raise UsageError(f"the kernel of {node.name}: {wrong.message}", wrong.hint) from None
    if not runs:
        missing, option = "Xen", "CONFIG_XEN_PV"
    elif node.hypervisor and not runs_as_dom0(elf):
        missing, option = "being dom0", "CONFIG_XEN_DOM0"
    else:
        return
    raise UsageError(
        f"the kernel of {node.name}, {kernel}, has no support for {missing}",
        f"name one that was built with {option}, or leave kernel out to have the image's",
    )


def nics(node: Node) -> tuple[Nic, ...]:
    """Return the interfaces of a node under test, then its management interface."""
    found = [
        Nic(one.name, one.tap, one.mac, one.model, one.offload.device) for one in node.interfaces
    ]
    model = models.DEFAULT_ON_XEN if node.host else models.DEFAULT
    return (*found, Nic(spec.MGMT_INTERFACE, node.mgmt_tap, node.mgmt_mac, model, {}))


def host_guest(known: State, node: Node, domain: str, directory: Path) -> Guest:
    """Return a Xen host as a guest of the lab."""
    image = known.images[node.name]
    assert image.hypervisor, "checked before"
    inside = known.topology.inside(node.name)
    *own, mgmt = nics(node)
    uplinks = {
        one.network: xen_host.Port(nic, one.mtu)
        for one, nic in zip(node.interfaces, own, strict=True)
    }
    return xen_host.guest(
        node.name,
        domain,
        hypervisor=image.hypervisor,
        kernel=unpacked(node.kernel or image.kernel),
        initramfs=node.initramfs or image.initramfs,
        memory=node.memory,
        vcpus=node.vcpus,
        mgmt=mgmt,
        bridges=[
            xen_host.Bridge(
                network.bridge,
                network.mtu,
                tuple(map(str, network.addresses)),
                tuple(uplinks[name] for name in [network.name] if name in uplinks),
            )
            for network in inside.networks
        ],
        settings=spec.setting_lines(node),
        drives=[file for one in inside.nodes for file in _files(known, one)],
        client=known.client,
        hostkey=known.hostkeys[node.name],
        directory=directory,
    )


def xen_guest(known: State, node: Node, directory: Path) -> xen.XenGuest:
    """Return what a guest on a Xen host is made of."""
    kernel, initramfs = _files(known, node)
    console = directory / "console"
    networks = known.topology.networks
    bridges = {one.tap: networks[one.network].bridge for one in node.interfaces}
    backend = backends.of(known.uri)
    lines = spec.boot_lines(known.topology, node, known.client, known.clients, known.hostkeys)
    return xen.XenGuest(
        Guest(
            name=node.name,
            domain=backend.domain(known, node.name),
            memory=node.memory,
            vcpus=node.vcpus,
            kernel=kernel,
            initramfs=initramfs,
            cmdline=xen.CMDLINE,
            nics=nics(node),
            console=console / f"{node.name}.sock",
            log=console / f"{node.name}.log",
        ),
        {**bridges, node.mgmt_tap: backend.mgmt_bridge(known)},
        lines,
        backend.dom0_files(known, kernel, initramfs),
    )


def _files(known: State, node: Node) -> tuple[Path, Path]:
    """Return the kernel, as Xen wants it, and the initramfs that a node boots."""
    image = known.images[node.name]
    return unpacked(node.kernel or image.kernel), node.initramfs or image.initramfs
