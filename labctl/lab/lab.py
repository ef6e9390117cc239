"""A lab: a topology brought to life. It owns the order in which real things come and go."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from labctl import backends, images
from labctl.backends.state import State
from labctl.errors import UsageError
from labctl.events import Emit, Event, silent
from labctl.guests import accel, driver, keys, secret_texts, tools
from labctl.kinds import forwarders
from labctl.lab import (
    interface_settings,
    linkstate,
    machines,
    naming,
    power,
    preflight,
    ssh_files,
    state,
    status,
    templates,
)
from labctl.lab.router import Router
from labctl.network import features, programs
from labctl.routers import namespace
from labctl.sandbox.base import ExecutionContext, Sandbox
from labctl.sandbox.client import Agent
from labctl.topology import model

if TYPE_CHECKING:  # most labs come up without
    from labctl.lab.forwarding_node import Forwarder
    from labctl.lab.node import Node
    from labctl.lab.offloads import Offloads


class Lab:
    """A running lab. Made by `up` or `attach`; `down` ends it, `close` only lets go of it."""

    def __init__(self, sandbox: Sandbox, known: State, emit: Emit = silent) -> None:
        """Hold a running lab."""
        self.sandbox = sandbox
        self.name = known.name
        self.topology = known.topology
        self.accel = known.accel
        self.images = known.images
        self.disks = known.disks
        self.directory = sandbox.directory
        self.timings: dict[str, float] = {}
        """Seconds by stage: `images`, `sandbox`, `network`, `boot`, `up`."""
        self._state = known
        self._emit = emit
        self._backend = backends.of(known.uri)
        self._dom0s = {
            node.name: status.dom0(sandbox, known, node.name) for node in known.topology.xen_hosts()
        }

    # --- coming and going -------------------------------------------------------------------

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
        cold: bool = False,
        agent: Agent | None = None,
    ) -> Lab:
        """Bring a topology up: all of it, or nothing is left.

        It is called `name`, by default after the topology (`labctl.lab.naming`). Unless `keep` is
        set the lab ends with this process, however that ends. With the `uri` of a system's libvirt
        the lab lives in the host's own namespaces; then only `down` ends it.
        Guests are clones of templates where they can be, unless `cold` is set or LABCTL_COLD is.
        An `agent` may have been started ahead (`labctl.lab.prestart`), unless there is a `uri`.
        Raises `UsageError` for a name that is wrong or taken, `HostError`, `GuestError` or
        `DeadlineError` for what failed.
        """
        name = naming.from_topology(topology.name) if name is None else name
        naming.check(name)
        folder = state.directory(name)
        preflight.check_sockets(topology, folder)
        backend = backends.of(uri)
        preflight.check_host(backend, guests=bool(backend.booted(topology)))
        preflight.check_kinds(topology)
        preflight.check_disks(topology)
        texts = secret_texts.read(topology)
        backend.check(topology, emit)
        begun = time.monotonic()
        timings: dict[str, float] = {}
        with _timed(timings, "images"):
            booted = backend.booted(topology)
            wanted = sorted({node.image for node in booted if not node.disk})
            found = {image: images.get(image, emit=emit) for image in wanted}
            disks = {
                node.name: images.get_disk(node.disk, emit=emit) for node in booted if node.disk
            }
            preflight.check(topology, found, backend, templates.cold(cold))
            chosen = backend.accel or preflight.choose_accel(policy, booted, found, emit)
            preflight.check_accel(topology, backend, chosen)
        with _timed(timings, "sandbox"), state.creating(folder):
            sandbox = backend.create_sandbox(folder, agent)
        lab = None
        try:
            known = State(
                name=name,
                topology=topology,
                accel=chosen,
                images={node.name: found[node.image] for node in booted if not node.disk},
                disks=disks,
                client=keys.Key.make(),
                clients={
                    node.name: keys.Key.make()
                    for node in topology.nodes.values()
                    if node.guest_kind.is_endpoint
                },
                hostkeys={node: keys.Key.make() for node in topology.nodes},
                uri=uri,
                started=datetime.now(UTC).isoformat(timespec="seconds"),
                complete=False,
                cold=templates.cold(cold),
            )
            backend.survey(sandbox, known)
            secret_texts.keep(folder, topology, texts)
            lab = cls(sandbox, known, emit)
            lab.timings = timings
            if not backend.ends_with_sandbox:
                state.save(folder, known)  # before anything is made: what `down` goes by
            lab._build()
            lab._complete(keep=keep)
        except BaseException:
            if lab:
                lab.down()
            else:
                backend.tear_down(sandbox, None)
                sandbox.end()
            raise
        timings["up"] = time.monotonic() - begun
        return lab

    def _complete(self, *, keep: bool) -> None:
        """Note that all of a lab is there; let it outlive this process on wish."""
        self._state = dataclasses.replace(self._state, complete=True)
        state.save(self.directory, self._state)
        if keep:
            self.sandbox.keep()

    @classmethod
    def attach(cls, name: str | None = None, emit: Emit = silent) -> Lab:
        """Return a running lab by its name, or the only one; raises `UsageError` where none is."""
        folder = state.find(name)
        return cls(state.attach(folder), state.load(folder), emit)

    def down(self) -> None:
        """End everything of this lab."""
        for dom0 in self._dom0s.values():
            dom0.close()
        self._backend.tear_down(self.sandbox, self._state)
        self.sandbox.end()

    def close(self) -> None:
        """Let go of the lab; one that was brought up without `keep` ends with this process."""
        for place in (*self._dom0s.values(), self.sandbox):
            place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def _build(self, saved: Container[str] = (), go_on: Callable[[], None] = lambda: None) -> None:
        """Make the networks, then the routers, then the guests; offloads of TAPs come last.

        Guests that are `saved`, by name, are started by `go_on`, and have what they are given.
        """
        with _timed(self.timings, "network"):
            self._emit(Event("network", self.name, "start"))
            self._backend.build_networks(self.sandbox, self._state)
            programs.start_all(self.sandbox, self.topology)
            self._build_routers(self.topology.outer_routers())
            making = self._making()
            nodes = self._wanted(self.topology.namespace_nodes())
            self._start_nodes([(node, machines.build(making, node)) for node in nodes])
            count = len(self.topology.networks)
            self._emit(Event("network", self.name, "done", f"{count} bridge{'s'[: count != 1]}"))
        with _timed(self.timings, "boot"):
            self._write_ssh()
            (self.directory / "console").mkdir(mode=self._backend.log_folder_mode, exist_ok=True)
            making = self._making()
            go_on()
            guests = self._wanted(self._backend.machines(self.topology), saved)
            self._start_nodes([(node, machines.build(making, node)) for node in guests])
            for host in self.topology.xen_hosts():
                self._populate(host)
        nodes = self._wanted(self.topology.nodes.values())
        for node in nodes:
            interface_settings.apply_taps(self, node)
        interface_settings.impair(self)
        self._give([node.name for node in nodes if node.name not in saved])

    def _wanted(self, nodes: Iterable[model.Node], but: Container[str] = ()) -> list[model.Node]:
        """Return those of nodes that are to start: one that was stopped by choice stays so."""
        return [node for node in nodes if node.name not in self._state.off and node.name not in but]

    def _build_routers(self, routers: Sequence[model.Router]) -> None:
        for router in routers:
            bridges = self.topology.bridges(router)
            self.place(router.host).call(namespace.build, router, bridges)
            self.router(router.name).set_kind(router.kind)

    def _populate(self, host: model.Node) -> None:
        """Make the routers on a Xen host, then its guests.

        Beside each other they take longer: both need dom0's one CPU.
        """
        inside = self.topology.inside(host.name)
        dom0 = self._dom0s[host.name]
        making = self._making()
        built = [machines.build(making, node) for node in inside.nodes]
        self._backend.prepare_dom0(self.sandbox, self._state, dom0, built, self._emit)
        self._build_routers(inside.routers)
        self._start_nodes(list(zip(inside.nodes, built, strict=True)), host.name)
        self._backend.settle_dom0(self._state, dom0)

    # --- guests -----------------------------------------------------------------------------

    @property
    def hypervisor(self) -> driver.Hypervisor:
        """How this lab's guests are driven."""
        return self._backend.hypervisor(self.directory)

    @property
    def starts(self) -> Mapping[str, str]:
        """How each guest was started last: `booted` or `cloned`."""
        return self._state.starts

    def _start_nodes(self, built: Sequence[tuple[model.Node, Any]], host: str = "") -> None:
        """Start nodes, on a host or in the lab itself, with what was built of each.

        How each was started is remembered. Raises `LabctlError` where one does not get ready.
        """
        starts = machines.start(self._making(), built, host)
        found = {name: tools.found(self.directory, name) for name in starts}
        self.topology = self.topology.with_tools(found)
        for node, _ in built:
            if node.forwards and node.is_configured:
                from labctl.lab.forwarding_node import ForwardingNode  # most labs have none

                kind = node.forwarder or forwarders.DEFAULT
                ForwardingNode(self.node(node.name)).set_kind(kind)
            if self._state.complete:
                interface_settings.apply_taps(self, node)
                if not node.guest_kind.is_machine:  # its links are new too
                    interface_settings.impair(self, node.name)
        self._state = dataclasses.replace(
            self._state, topology=self.topology, starts={**self._state.starts, **starts}
        )

    def _know(self, known: State) -> None:
        """Take over what another process has noted of this lab."""
        self._state = known
        self.topology = known.topology

    def _remember(self, **changes: Any) -> None:
        """Note changes of `State`, for later processes too."""
        self._know(dataclasses.replace(self._state, **changes))
        state.save(self.directory, self._state)

    def _making(self) -> machines.Making:
        """Return what those who make nodes have of this lab, as it is now."""
        return machines.Making(self.sandbox, self._state, self._emit)

    def _write_ssh(self) -> None:
        ssh_files.write(self.directory, self._backend, self._state)

    def stop(self, *names: str, seconds: float = power.ORDERLY_SECONDS) -> None:
        """Stop nodes; a guest with a disk has so many `seconds` to shut down.

        Raises `UsageError` for a node that cannot be stopped by itself.
        """
        power.stop(self, names, seconds=seconds)

    def start(self, *names: str) -> None:
        """Start nodes that do not run, until each is ready.

        Raises `UsageError` for a node that cannot be started by itself, and as `up` does for one
        that does not get ready; it is off again then.
        """
        power.start(self, names)

    def restart(self, *names: str, device: Mapping[str, bool]) -> None:
        """Start nodes again with other virtio device features (by libvirt's names).

        They are decided when the device is made, so there is no changing them in a running guest.
        """
        power.restart_with(self, names, device)

    def _give(self, names: Iterable[str]) -> None:
        """Write the files of nodes that have started, and run their commands."""
        if wanted := [name for name in names if self.topology.nodes[name].is_given]:
            from labctl.lab import startup  # here: most labs have none

            startup.give(self, wanted, self._emit)

    # --- what is in it ----------------------------------------------------------------------

    def place(self, host: str = "") -> ExecutionContext:
        """Return where links, routers and functions are: the lab's sandbox, or a host's dom0."""
        return self._dom0s[host] if host else self.sandbox

    def node(self, name: str) -> Node:
        """Return a node by its name; raises `UsageError` for an unknown one, or a router."""
        if name in self.topology.routers:
            raise UsageError(
                f"{name} is a router of lab {self.name}, not a guest: it has no console and no SSH",
                f"run a command in it: labctl exec {name} -- COMMAND",
            )
        if name not in self.topology.nodes:
            raise UsageError(f"lab {self.name} has no node {name}", self._known())
        check = partial(status.check_running, self.sandbox, self._state, name)
        node = self.topology.nodes[name]
        return machines.node_class(node)(self.sandbox, self.directory, node, check)

    def check_running(self, node: str, closely: bool = False) -> None:
        """Raise `GuestError` when a node has ended: nobody would answer for minutes.

        Looking `closely` at one of this host's guests takes a tenth of a second.
        """
        ask = closely or bool(self.topology.nodes[node].host)
        status.check_running(self.sandbox, self._state, node, ask)

    def check_programs(self) -> None:
        """Raise `HostError` when a program that carries frames between links has ended."""
        programs.check(self.sandbox, self.topology, self.name)

    def link_troubles(self) -> dict[str, dict[str, str]]:
        """Return by node and interface why it has no link; what is well is left out.

        Raises `LabctlError` when it cannot be told.
        """
        return linkstate.troubles(self.sandbox, self._state)

    def check_console(self, name: str) -> None:
        """Raise `UsageError` for what has no console of this lab's.

        That is a real Xen host, or a node that is no machine.
        """
        node = self.node(name).model
        if not node.guest_kind.is_machine:
            raise UsageError(
                f"{name} is a {node.guest_kind.title}: it has no console",
                f"for a shell in it: labctl ssh {name}",
            )
        if not self._backend.boots(node):
            hint = "its guests have consoles of this lab's"
            raise UsageError(f"{name} is a real host, not started by labctl", hint)

    def console_words(self, name: str) -> list[str]:
        """Return the words that join a Xen guest's console on a terminal inside the sandbox.

        Empty for other nodes, whose console is a socket. Raises `UsageError` for an unknown one.
        """
        node = self.node(name).model
        return machines.starter(self._making(), node).console_words(node)

    @property
    def nodes(self) -> list[Node]:
        """All nodes, in the topology's order."""
        return [self.node(name) for name in self.topology.nodes]

    def router(self, name: str) -> Router:
        """Return a router by its name; raises `UsageError` for an unknown one."""
        if name not in self.topology.routers:
            raise UsageError(f"lab {self.name} has no router {name}", self._known())
        router = self.topology.routers[name]
        return Router(self.place(router.host), self.directory, router)

    def _known(self) -> str:
        """Return the hint that lists nodes and routers."""
        routers = ", ".join(self.topology.routers)
        return f"it has: {', '.join(self.topology.nodes)}" + (routers and f"; routers: {routers}")

    def forwarder(self, name: str) -> Forwarder:
        """Return what forwards in a router, or in a node that is one; raises `UsageError`."""
        from labctl.lab.forwarding_node import ForwardingNode  # here: most labs come up without

        node = self.topology.nodes.get(name)
        return ForwardingNode(self.node(name)) if node and node.forwards else self.router(name)

    @property
    def routers(self) -> list[Router]:
        """All routers, in the topology's order."""
        return [self.router(name) for name in self.topology.routers]

    def tap_features(self, tap: str) -> features.Features:
        """Return the offload features of a TAP, a vif or another link beside a bridge."""
        return self._place_of(tap).call(features.read, tap, "")

    @contextlib.contextmanager
    def tap_offload(self, tap: str, wanted: Mapping[str, bool]) -> Iterator[features.Features]:
        """Set offload features of a TAP for the length of a `with` block; gives those in effect."""
        place = self._place_of(tap)
        before = place.call(features.change, tap, dict(wanted), "")
        try:
            yield self.tap_features(tap)
        finally:
            place.call(features.restore, tap, before, "")

    def _place_of(self, link: str) -> ExecutionContext:
        topology = self.topology
        hosts = {one.tap: node.host for node in topology.nodes.values() for one in node.interfaces}
        hosts |= {one.peer: r.host for r in topology.routers.values() for one in r.interfaces}
        return self.place(hosts.get(link, ""))

    def offloads(self) -> Offloads:
        """Read back every offload in effect (`labctl.lab.offloads`)."""
        from labctl.lab import offloads

        return offloads.read(self)

    def versions(self) -> dict[str, str]:
        """Return the versions of libvirt and QEMU that run this lab's guests."""
        return self.sandbox.call(driver.versions, self.hypervisor)


@contextlib.contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    begun = time.monotonic()
    try:
        yield
    finally:
        timings[stage] = time.monotonic() - begun
