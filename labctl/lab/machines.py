"""What makes and starts the nodes of a lab: found by what their kinds name, for a lab that is up.

A guest kind (`labctl.kinds.guests`) imports nothing that makes things. So it names two: a function
that says what a node is made of (`GuestKind.built_by`), and a class that starts and stops what that
function returned (`GuestKind.started_by`, a `Starter`). Kinds that start in one way share the
class, so that their nodes start beside each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl import backends
from labctl.backends.base import Backend
from labctl.backends.state import State
from labctl.errors import UsageError, shown
from labctl.events import Emit, silent
from labctl.guests.driver import Hypervisor
from labctl.images import Image
from labctl.images.disk_cache import Disk
from labctl.kinds import registry
from labctl.kinds.guests.base import GuestKind
from labctl.lab import guest_state
from labctl.lab.guest_state import Condition
from labctl.sandbox.base import Sandbox
from labctl.topology.model import Node

if TYPE_CHECKING:  # most labs come up without
    from labctl.guests.spec import Guest
    from labctl.lab.node import Node as NodeInLab

BOOTED, CLONED = "booted", "cloned"
"""How a node was started, in a lab's state and in records."""


@dataclass(frozen=True)
class Making:
    """A lab whose nodes are made: what a builder and a starter have of it."""

    sandbox: Sandbox
    known: State
    emit: Emit

    @property
    def directory(self) -> Path:
        """The lab's."""
        return self.sandbox.directory

    @property
    def consoles(self) -> Path:
        """The folder of what consoles say, each node's as `NAME.log`."""
        return self.directory / "console"

    @cached_property
    def backend(self) -> Backend:
        """What runs the guests of this lab."""
        return backends.of(self.known.uri)

    @property
    def hypervisor(self) -> Hypervisor:
        """How QEMU guests are driven."""
        return self.backend.hypervisor(self.directory)

    @cached_property
    def boot_user(self) -> tuple[int, int] | None:
        """Who reads what guests boot, where that is not the lab's own user."""
        return self.backend.boot_user(self.sandbox)

    def domain(self, node: Node) -> str:
        """Return what libvirt calls a node."""
        return self.backend.domain(self.known, node.name)

    def image(self, node: Node) -> Image:
        """Return the image that a node boots."""
        return self.known.images[node.name]

    def disk(self, node: Node) -> Disk:
        """Return the disk image that a node boots, the base of its overlay."""
        return self.known.disks[node.name]


class Starter(ABC):
    """Starts and stops what was built of nodes; one is made whenever something is to be done."""

    def __init__(self, making: Making) -> None:
        """Work on a lab."""
        self.making = making

    @abstractmethod
    def start(self, built: Sequence[Any], host: str) -> Collection[str]:
        """Start what was built, on the node `host` or in the lab itself, until each is ready.

        That is when a command ran in it. Returns the names of those that did not boot but went on
        from a saved state. Raises `LabctlError` where one dies or never gets ready.
        """

    def stop(self, built: Any) -> None:
        """End one at once that may start again, and put aside what its console said.

        One that has ended is no error. Only asked of kinds that can be started again.
        """
        raise NotImplementedError

    def shut_down(self, built: Any, seconds: float) -> bool:  # noqa: ARG002
        """Let one end by itself, so that what it wrote is whole; return whether it did in time.

        By default there is nothing that it could lose, so nothing to wait for.
        """
        return False

    def forget(self, built: Any) -> None:  # noqa: B027 - most keep nothing
        """Let one that has ended start afresh, without what it wrote before."""

    def to_go_on(self, built: Any, *, cloned: bool) -> Guest | None:  # noqa: ARG002
        """Return the guest as it goes on from a state that was saved while it ran.

        It is the one that was `cloned`, or had booted. What it writes is where `written` says, or
        about to be. By default None: it cannot be saved, and starts anew.
        """
        return None

    def written(self, built: Any) -> Sequence[Path]:  # noqa: ARG002
        """Return the files that a node writes and finds there again, as far as they are there.

        By default none.
        """
        return ()

    def condition(self, node: Node) -> Condition:
        """Return how a node in the lab itself is, without delay; of those on a host it is asked.

        By default that is how its QEMU is.
        """
        return guest_state.of_machine(self.making.sandbox, self.making.known, node.name)

    def console_words(self, node: Node) -> list[str]:  # noqa: ARG002
        """Return the words that join a node's console on a terminal inside the lab's sandbox.

        Empty where the console is a socket in `Making.consoles`, as of QEMU's guests.
        """
        return []


def kind_of(node: Node) -> GuestKind:
    """Return the kind of a node that is to start.

    Raises `UsageError` where its package is gone: what else tells of the node is of no use here.
    """
    return registry.guest(node.kind) if node.kind else node.guest_kind


def build(making: Making, node: Node) -> Any:
    """Return what a node is made of, for the starter of its kind; raises as its builder does."""
    builder: Callable[[Making, Node], Any] = _named(kind_of(node), "built_by")
    return builder(making, node)


def start(making: Making, nodes: Sequence[tuple[Node, Any]], host: str = "") -> dict[str, str]:
    """Start nodes with what was built of each, those of one way to start beside each other.

    Returns how each was started, `BOOTED` or `CLONED`.
    """
    together: dict[str, list[tuple[Node, Any]]] = {}
    for one in nodes:
        together.setdefault(kind_of(one[0]).started_by, []).append(one)
    cloned: set[str] = set()
    for several in together.values():
        way = starter(making, several[0][0])
        cloned.update(way.start([built for _, built in several], host))
    machines = [node for node, _ in nodes if node.guest_kind.is_machine]
    return {node.name: CLONED if node.name in cloned else BOOTED for node in machines}


def starter(making: Making, node: Node) -> Starter:
    """Return what starts and stops a node, as far as its kind is known here (`guest_kind`)."""
    cls: type[Starter] = _named(node.guest_kind, "started_by")
    return cls(making)


def node_class(node: Node) -> type[NodeInLab]:
    """Return the class that works in a node, as far as its kind is known here (`guest_kind`)."""
    if node.console_only:
        from labctl.lab.console_node import ConsoleNode  # here: most labs come up without

        return ConsoleNode
    cls: type[NodeInLab] = _named(node.guest_kind, "handled_by")
    return cls


def condition_of(sandbox: Sandbox, known: State, name: str) -> Condition:
    """Return how a node in the lab itself is."""
    node = known.topology.nodes[name]
    if name in known.off:
        return Condition(guest_state.SHUT_OFF)
    return starter(Making(sandbox, known, silent), node).condition(node)


def _named(kind: GuestKind, key: str) -> Any:
    """Return what a kind names; raises `UsageError` where that cannot be had."""
    place: str = getattr(kind, key)
    module, _, name = place.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as wrong:
        what = f"the guest kind {shown(kind.name)} is {key} {shown(place)}, which cannot be had"
        raise UsageError(f"{what}: {wrong}", "repair or remove what declares it") from None
