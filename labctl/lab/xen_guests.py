"""What a lab's Xen hosts and the guests on them are made of, from its topology and state."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from labctl import backends
from labctl.backends.state import State
from labctl.errors import UsageError
from labctl.guests import spec, xen, xen_host
from labctl.guests.spec import Guest
from labctl.images import Image
from labctl.images.kernel import SEEN, unpacked
from labctl.lab.machines import Making, Starter
from labctl.lab.qemu import nics
from labctl.topology.model import Node


def check(node: Node, image: Image) -> None:
    """Raise `UsageError` where a node of Xen's has an image or a kernel that Xen cannot start."""
    kind = node.guest_kind
    if kind.is_host and image.hypervisor is None:
        raise UsageError(
            f"the image {image.name} of {node.name} holds no hypervisor",
            f"give a {kind.title} the image {kind.image}, or one that extends it",
        )
    kernel = node.kernel or image.kernel
    for option, missing in kind.kernel_options.items():
        try:
            built_with = SEEN[option](unpacked(kernel))
        except UsageError as wrong:
            raise UsageError(f"the kernel of {node.name}: {wrong.message}", wrong.hint) from None
        if not built_with:
            raise UsageError(
                f"the kernel of {node.name}, {kernel}, has no support for {missing}",
                f"name one that was built with {option}, or leave kernel out to have the image's",
            )


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
        cpu=node.guest_kind.cpu,
        dom0_cmdline=node.guest_kind.cmdline,
        ready=node.guest_kind.ready,
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
            cmdline=node.guest_kind.cmdline,
            nics=nics(node),
            console=console / f"{node.name}.sock",
            log=console / f"{node.name}.log",
            ready=node.guest_kind.ready,
        ),
        {**bridges, node.mgmt_tap: backend.mgmt_bridge(known)},
        lines,
        backend.dom0_files(known, kernel, initramfs),
    )


def _files(known: State, node: Node) -> tuple[Path, Path]:
    """Return the kernel, as Xen wants it, and the initramfs that a node boots."""
    image = known.images[node.name]
    return unpacked(node.kernel or image.kernel), node.initramfs or image.initramfs


def build_host(making: Making, node: Node) -> Guest:
    """Return what a Xen host is made of, as a guest of the lab."""
    return host_guest(making.known, node, making.domain(node), making.directory)


def build_pv(making: Making, node: Node) -> xen.XenGuest:
    """Return what a guest on a Xen host is made of."""
    return xen_guest(making.known, node, making.directory)


class Pv(Starter):
    """Starts guests by libvirt's Xen driver in the dom0 of their host (`labctl.guests.xen`)."""

    def start(self, built: Sequence[xen.XenGuest], host: str) -> Collection[str]:
        """Start guests on a Xen host that is ready; they all boot."""
        making = self.making
        making.sandbox.agent().call_with_events(
            xen.start, self._host(host), built, making.known.name, emit=making.emit
        )
        return ()

    def console_words(self, node: Node) -> list[str]:
        """Return the words that join its console through dom0."""
        return xen.console_words(self._host(node.host), self.making.domain(node))

    def _host(self, name: str) -> xen.XenHost:
        making = self.making
        return making.backend.xen_host(making.known, name, making.directory)
