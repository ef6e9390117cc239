"""QEMU guests that boot a kernel and an initramfs: what they are made of, and how they start."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.guests import console, driver, spec
from labctl.guests.spec import Guest, Nic
from labctl.lab import boot
from labctl.lab.machines import Making, Starter
from labctl.topology.model import Node


def nics(node: Node) -> tuple[Nic, ...]:
    """Return the interfaces of a node under test, then its management interface."""
    found = [
        Nic(one.name, one.tap, one.mac, one.model, one.offload.device) for one in node.interfaces
    ]
    model = node.guest_kind.mgmt_nic
    return (*found, Nic(spec.MGMT_INTERFACE, node.mgmt_tap, node.mgmt_mac, model, {}))


def build(making: Making, node: Node) -> Guest:
    """Return what a guest is made of, with its initramfs written."""
    kind, image, known = node.guest_kind, making.image(node), making.known
    lines = spec.boot_lines(known.topology, node, known.client, known.clients, known.hostkeys)
    files = boot.Files(making.directory, making.boot_user)
    return Guest(
        name=node.name,
        domain=making.domain(node),
        memory=node.memory,
        vcpus=node.vcpus,
        kernel=files.kernel(node.name, node.kernel or image.kernel),
        initramfs=files.initramfs(node.name, node.initramfs or image.initramfs, lines),
        cmdline=kind.cmdline,
        nics=nics(node),
        console=making.consoles / f"{node.name}.sock",
        log=making.consoles / f"{node.name}.log",
        cpu=kind.cpu,
        ready=kind.ready,
    )


class Qemu(Starter):
    """Starts guests by libvirt's QEMU driver (`labctl.guests.driver`)."""

    def start(self, built: Sequence[Guest], host: str) -> None:
        """Start guests; there is no `host`, for they are the lab's own."""
        assert not host, "QEMU guests live in the lab itself"
        making = self.making
        making.sandbox.agent().call_with_events(
            driver.start,
            making.hypervisor,
            built,
            making.known.accel,
            making.known.name,
            making.directory,
            emit=making.emit,
        )

    def stop(self, built: Guest) -> None:
        """End a guest at once."""
        self.making.sandbox.call(driver.stop, self.making.hypervisor, built.domain)
        console.rotate(built.log)
