"""A lab: a topology brought to life. It owns the order in which real things come and go."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from labctl import images
from labctl.errors import UsageError
from labctl.events import Emit, Event, silent
from labctl.guests import accel, driver, keys, ssh
from labctl.guests.spec import (
    MGMT_INTERFACE,
    Accel,
    Guest,
    Nic,
    boot_lines,
    command_line,
    known_lines,
)
from labctl.images import Image
from labctl.lab import shared, state
from labctl.lab.node import Node
from labctl.lab.router import Router
from labctl.network import features, links
from labctl.routers import namespace
from labctl.topology import model
from labctl.world import paths
from labctl.world.base import World
from labctl.world.client import Agent
from labctl.world.deadline import Deadline
from labctl.world.host import Host
from labctl.world.space import Space

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


class Lab:
    """A running lab. Made by `up` or `attach`; `down` ends it, `close` only lets go of it."""

    def __init__(self, world: World, known: state.State, emit: Emit = silent) -> None:
        """Hold a running lab."""
        self.world = world
        self.name = known.name
        self.topology = known.topology
        self.accel = known.accel
        self.images = known.images
        self.directory = world.directory
        self.timings: dict[str, float] = {}
        """Seconds by stage: `images`, `world`, `network`, `boot`, `up`."""
        self._state = known
        self._emit = emit

    # --- coming and going -------------------------------------------------------------------

    @staticmethod
    def start_agent() -> Agent:
        """Start the agent of a lab to come, so that it is ready when the lab's world is.

        Give it to `up`, or close it.
        """
        return Agent((), [driver.__name__, links.__name__, "libvirt", "pyroute2"])

    @classmethod
    def up(
        cls,
        topology: model.Topology,
        *,
        name: str | None = None,
        policy: accel.Policy = "auto",
        uri: str = "",
        emit: Emit = silent,
        keep: bool = False,
        agent: Agent | None = None,
    ) -> Lab:
        """Bring a topology up: all of it, or nothing is left.

        Unless `keep` is set the lab ends with this process, however that ends. With the `uri` of a
        system's libvirt the lab lives in the host's own namespaces; then only `down` ends it.
        An `agent` may have been started ahead (`start_agent`), unless there is a `uri`.
        Raises `UsageError` for a name that is taken, `HostError`, `GuestError` or `DeadlineError`
        for what failed.
        """
        name = name or topology.name
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} is not a name for a lab", "use a-z, 0-9 and -, 40 at most")
        _check_xen(topology)
        folder = state.directory(name)
        if uri:
            shared.check(topology)
        begun = time.monotonic()
        timings: dict[str, float] = {}
        with _timed(timings, "images"):
            found = {image: images.get(image, emit=emit) for image in _images(topology)}
            _check_memory(topology, found)
            chosen = _choose_accel(policy, found, emit)
        with _timed(timings, "world"), state.creating(folder):
            world: World = Host.create(folder) if uri else Space.create(folder, agent)
        lab = None
        try:
            known = state.State(
                name=name,
                topology=topology,
                accel=chosen,
                images={node.name: found[node.image] for node in topology.nodes.values()},
                client=keys.Key.make(),
                hostkeys={node: keys.Key.make() for node in topology.nodes},
                uri=uri,
                started=datetime.now(UTC).isoformat(timespec="seconds"),
                complete=False,
            )
            if uri:
                shared.check_domains(world, known)
            lab = cls(world, known, emit)
            lab.timings = timings
            if uri:
                state.save(folder, known)  # before anything is made: what `down` goes by
            lab._build()
            lab._state = dataclasses.replace(known, complete=True)
            state.save(folder, lab._state)
            if keep:
                world.keep()
        except BaseException:
            if lab:
                lab.down()
            world.end()
            raise
        timings["up"] = time.monotonic() - begun
        return lab

    @classmethod
    def attach(cls, name: str | None = None, emit: Emit = silent) -> Lab:
        """Return a running lab by its name, or the only one; raises `UsageError` where none is."""
        folder = state.find(name)
        return cls(state.attach(folder), state.load(folder), emit)

    def down(self) -> None:
        """End everything of this lab."""
        if self._state.uri:
            shared.dismantle(self.world, self._state)
        self.world.end()

    def close(self) -> None:
        """Let go of the lab; one that was brought up without `keep` ends with this process."""
        self.world.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def _build(self) -> None:
        """Make the networks, then the routers, then the guests; offloads of TAPs come last."""
        with _timed(self.timings, "network"):
            self._emit(Event("network", self.name, "start"))
            if not self._state.uri:
                self.world.call(links.leave_bridges_alone)
            self.world.call(links.build, self.topology)
            for router in self.topology.routers.values():
                self.world.call(namespace.build, router)
                self.router(router.name).set_kind(router.kind)
            count = len(self.topology.networks)
            self._emit(Event("network", self.name, "done", f"{count} bridge{'s'[: count != 1]}"))
        with _timed(self.timings, "boot"):
            self._write_ssh()
            specs = tuple(self._guest(node) for node in self.topology.nodes.values())
            self._start(specs)
        for node in self.topology.nodes.values():
            self._apply_taps(node)

    # --- guests -----------------------------------------------------------------------------

    @property
    def hypervisor(self) -> driver.Hypervisor:
        """How this lab's guests are driven."""
        return driver.Hypervisor(
            self.directory / "embed", self._state.uri, paths.cache() / "libvirt"
        )

    def _write_ssh(self) -> None:
        ssh.write_config(
            self.directory,
            model.MGMT_BRIDGE,
            self._state.client,
            {
                node.name: (node.mgmt_mac, self._state.hostkeys[node.name].public)
                for node in self.topology.nodes.values()
            },
        )

    def _guest(self, node: model.Node) -> Guest:
        """Put together what a node's guest is made of."""
        console = self.directory / "console"
        console.mkdir(exist_ok=True)
        image = self.images[node.name]
        lines = boot_lines(self.topology, node, self._state.client, self._state.hostkeys)
        known = known_lines(self.topology, node, self._state.hostkeys)
        nics = [
            Nic(one.name, one.tap, one.mac, one.model, one.offload.device)
            for one in node.interfaces
        ]
        nics.append(Nic(MGMT_INTERFACE, node.mgmt_tap, node.mgmt_mac, "virtio", {}))
        return Guest(
            name=node.name,
            domain=shared.domain(self._state, node.name),
            memory=node.memory,
            vcpus=node.vcpus,
            kernel=self._boot_file(node.kernel or image.kernel),
            initramfs=self._boot_file(node.initramfs or image.initramfs),
            cmdline=command_line(images.CMDLINE, lines, node.name, known),
            nics=tuple(nics),
            console=console / f"{node.name}.sock",
            log=console / f"{node.name}.log",
        )

    def _boot_file(self, path: Path) -> Path:
        """Return where the hypervisor can read a file: a system's QEMU is another user."""
        return shared.readable_copy(path, self.directory) if self._state.uri else path

    def _start(self, specs: tuple[Guest, ...]) -> None:
        self.world.agent().call_with_events(
            driver.start,
            self.hypervisor,
            specs,
            self.accel,
            self.name,
            self.directory,
            emit=self._emit,
        )

    def restart(self, *names: str, device: Mapping[str, bool]) -> None:
        """Start nodes again with other virtio device features (by libvirt's names).

        They are decided when the device is made, so there is no changing them in a running guest.
        """
        for name in names:
            self.topology = self.topology.with_device_offload(name, device)
        nodes = [self.topology.nodes[name] for name in names]
        specs = tuple(self._guest(node) for node in nodes)
        for spec in specs:
            self._forget_connection(spec.name)
            self.world.call(driver.stop, self.hypervisor, spec.domain)
            _rotate(spec.log)
        self._start(specs)
        for node in nodes:
            self._apply_taps(node)
        self._state = dataclasses.replace(self._state, topology=self.topology)
        state.save(self.directory, self._state)

    def _forget_connection(self, name: str) -> None:
        """End the shared SSH connection to a guest that is about to go."""
        words = [*ssh.command(self.directory, name)[:-1], "-O", "exit", name]
        self.world.agent().run(
            words, Deadline(20, f"closing the connection to {name}"), check=False
        )

    def _apply_taps(self, node: model.Node) -> None:
        """Set the TAP offloads a topology asks for.

        Only now: when a guest's driver starts, QEMU sets the TAP's features to what that driver
        takes (TUNSETOFFLOAD, tun_chr_ioctl), over whatever was set before.
        """
        for interface in node.interfaces:
            if interface.offload.tap:
                self.world.call(features.change, interface.tap, interface.offload.tap)

    # --- what is in it ----------------------------------------------------------------------

    def node(self, name: str) -> Node:
        """Return a node by its name; raises `UsageError` for an unknown one."""
        if name not in self.topology.nodes:
            known = ", ".join(self.topology.nodes)
            raise UsageError(f"lab {self.name} has no node {name}", f"it has: {known}")
        return Node(self.world, self.directory, self.topology.nodes[name])

    @property
    def nodes(self) -> list[Node]:
        """All nodes, in the topology's order."""
        return [self.node(name) for name in self.topology.nodes]

    def router(self, name: str) -> Router:
        """Return a router by its name; raises `UsageError` for an unknown one."""
        if name not in self.topology.routers:
            known = ", ".join(self.topology.routers) or "none"
            raise UsageError(f"lab {self.name} has no router {name}", f"it has: {known}")
        return Router(self.world, self.directory, self.topology.routers[name])

    @property
    def routers(self) -> list[Router]:
        """All routers, in the topology's order."""
        return [self.router(name) for name in self.topology.routers]

    def tap_features(self, tap: str) -> features.Features:
        """Return the offload features of a TAP (or another link of the lab's host side)."""
        return self.world.call(features.read, tap, "")

    @contextlib.contextmanager
    def tap_offload(self, tap: str, wanted: Mapping[str, bool]) -> Iterator[features.Features]:
        """Set offload features of a TAP for the length of a `with` block; gives those in effect."""
        before = self.world.call(features.change, tap, dict(wanted), "")
        try:
            yield self.tap_features(tap)
        finally:
            self.world.call(features.restore, tap, before, "")

    def offloads(self) -> dict[str, dict[str, dict[str, bool]]]:
        """Read back every offload in effect.

        Returns `{"vm1/eth0": {"guest" | "tap" | "device": {feature: on}}}`; features that are off
        and cannot be changed are left out.
        """
        found: dict[str, dict[str, dict[str, bool]]] = {}
        for node in self.nodes:
            for interface in node.model.interfaces:
                guest = node.features(interface.name)
                tap = self.tap_features(interface.tap)
                found[f"{node.name}/{interface.name}"] = {
                    "guest": {n: f.active for n, f in guest.items() if f.active or not f.fixed},
                    "tap": {n: f.active for n, f in tap.items() if f.active or not f.fixed},
                    "device": node.device(interface.name),
                }
        return found

    def versions(self) -> dict[str, str]:
        """Return the versions of libvirt and QEMU that run this lab's guests."""
        return self.world.call(driver.versions, self.hypervisor)


def _images(topology: model.Topology) -> list[str]:
    return sorted({node.image for node in topology.nodes.values()})


def _check_xen(topology: model.Topology) -> None:
    """Raise `UsageError` for a topology with Xen hosts, which no lab can hold yet."""
    if hosts := topology.xen_hosts():
        raise UsageError(
            f"{topology.name} has a Xen host ({hosts[0].name}), which labs cannot hold yet",
            "validate it, or take a topology without hypervisor: xen",
        )


def _check_memory(topology: model.Topology, found: Mapping[str, Image]) -> None:
    """Raise `UsageError` for a node with too little memory to boot its image."""
    for node in topology.nodes.values():
        least = found[node.image].memory
        if node.memory < least and not node.initramfs:
            raise UsageError(
                f"{node.name} has {node.memory} MiB; its image {node.image} needs {least} to boot",
                f"write memory: {least} (or more) in the topology",
            )


def _choose_accel(policy: accel.Policy, found: Mapping[str, Image], emit: Emit) -> Accel:
    """Decide with an image of ours: a user's own kernel may be the very thing that is broken."""
    image = next(iter(found.values()))
    return accel.choose(
        policy, image.kernel, image.initramfs, images.CMDLINE, paths.cache() / "libvirt", emit
    )


def _rotate(log: Path) -> None:
    """Keep an ended guest's console beside the next one's."""
    number = 1
    while (older := log.with_suffix(f".{number}.log")).exists():
        number += 1
    log.replace(older)


@contextlib.contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    begun = time.monotonic()
    try:
        yield
    finally:
        timings[stage] = time.monotonic() - begun
