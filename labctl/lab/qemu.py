"""QEMU guests that boot a kernel and an initramfs: what they are made of, and how they start."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from labctl.events import Event
from labctl.guests import clone, console, driver, spec
from labctl.guests.spec import Clone, Guest, Nic, Saved, part_peers
from labctl.images.templates import Template
from labctl.lab import boot, by_hand, memory, templates
from labctl.lab.machines import Making, Starter
from labctl.topology.model import Node

T = TypeVar("T")


def nics(node: Node) -> tuple[Nic, ...]:
    """Return the interfaces of a node under test, then its management interface."""
    found = [
        Nic(one.name, one.tap, one.mac, one.model, one.offload.device) for one in node.interfaces
    ]
    model = node.guest_kind.mgmt_nic
    return (*found, Nic(spec.MGMT_INTERFACE, node.mgmt_tap, node.mgmt_mac, model, {}))


def build(making: Making, node: Node) -> Guest:
    """Return what a guest is made of; the files that it boots are written when it does."""
    kind, image, known = node.guest_kind, making.image(node), making.known
    made = Guest(
        name=node.name,
        domain=making.domain(node),
        memory=node.memory,
        vcpus=node.vcpus,
        kernel=node.kernel or image.kernel,
        initramfs=node.initramfs or image.initramfs,
        cmdline=kind.cmdline,
        nics=nics(node),
        console=making.consoles / f"{node.name}.sock",
        log=making.consoles / f"{node.name}.log",
        cpu=kind.cpu,
        ready=kind.ready,
        lines=spec.boot_lines(known.topology, node, known.client, known.clients, known.hostkeys),
    )
    return made if node.is_configured else by_hand.guest(making, node, made)


def set_carrier(making: Making, node: Node, mac: str, carrier: bool) -> None:
    """Give a NIC of a running guest its carrier, or take it away; raises `HostError`."""
    making.sandbox.call(driver.set_carrier, making.hypervisor, making.domain(node), mac, carrier)


def with_files(making: Making, guest: Guest) -> Guest:
    """Return a guest with the files that it boots written into the lab's folder."""
    if not guest.lines:
        return guest
    files = boot.Files(making.directory, making.boot_user)
    return replace(
        guest,
        kernel=files.kernel(guest.name, guest.kernel),
        initramfs=files.initramfs(guest.name, guest.initramfs, guest.lines),
        lines="",
    )


def templates_of(making: Making, built: Iterable[Guest]) -> dict[str, Template]:
    """Return the templates of those guests that are to be clones, by name; missing ones are made.

    Why a guest that might be a clone has none is told by an event.
    """
    if not may_clone(making):
        return {}
    nodes = making.known.topology.nodes
    able = (guest for guest in built if templates.may_be_clone(nodes[guest.name]))
    return templates.find(making, able)


def may_clone(making: Making) -> bool:
    """Whether guests of a lab may be clones at all."""
    return making.backend.clones and not templates.cold(making.known.cold)


def clone_of(guest: Guest, template: Template) -> Guest:
    """Return a guest that goes on from a template instead of booting."""
    saved = Clone(templates.saved(template), *part_peers(guest.lines))
    return replace(guest, lines="", clone=saved)


class Qemu(Starter):
    """Starts guests by libvirt's QEMU driver (`labctl.guests.driver`), as clones where it can."""

    def start(self, built: Sequence[Guest], host: str) -> Collection[str]:
        """Start guests; there is no `host`, for they are the lab's own.

        Why one that could be a clone boots is told by an event.
        """
        assert not host, "QEMU guests live in the lab itself"
        cloned = self._start_clones(built)
        if booted := [guest for guest in built if guest.name not in cloned]:
            self._check_memory(booted)
            self._in_agent(driver.start, [with_files(self.making, guest) for guest in booted])
        return cloned

    def stop(self, built: Guest) -> None:
        """End a guest at once."""
        self.making.sandbox.call(driver.stop, self.making.hypervisor, built.domain)
        console.rotate(built.log)

    def to_go_on(self, built: Guest, *, cloned: bool) -> Guest:
        """Return the guest with the machine that it had: that of a clone is another one."""
        if not cloned:
            return replace(with_files(self.making, built), incoming=True)
        nothing = Saved(Path(), "", Path(), "")
        return replace(built, lines="", clone=Clone(nothing, ""))

    def _start_clones(self, built: Sequence[Guest]) -> set[str]:
        """Start those guests that can be clones; return the names of those that are."""
        making = self.making
        found = templates_of(making, built)
        if not found:
            return set()
        specs = [clone_of(guest, found[guest.name]) for guest in built if guest.name in found]
        doubts: dict[str, clone.Doubt] = self._in_agent(clone.start, specs)
        for guest in specs:
            if doubt := doubts.get(guest.name):
                words = f"it boots instead: {doubt.words}"
                making.emit(Event("clone", guest.name, "failed", words))
                console.rotate(guest.log)
                if doubt.template:
                    templates.forget(found[guest.name])
        return found.keys() - doubts.keys()

    def _check_memory(self, booted: Sequence[Guest]) -> None:
        """Raise `HostError` where guests that were hoped to be clones find no room to boot."""
        if may_clone(self.making):
            topology = self.making.known.topology
            nodes = [topology.nodes[guest.name] for guest in booted]
            needed = sum(memory.of_node(topology, node) for node in nodes)
            memory.check(topology, needed)

    def _in_agent(self, function: Callable[..., T], guests: Sequence[Guest]) -> T:
        making = self.making
        return making.sandbox.agent().call_with_events(
            function,
            making.hypervisor,
            guests,
            making.known.accel,
            making.known.name,
            making.directory,
            emit=making.emit,
        )
