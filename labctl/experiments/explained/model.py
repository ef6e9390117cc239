"""What an explanation is made of: plain data, with no words about how it is printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Story = Literal["virtio", "Xen", "Xen and virtio"]

Role = Literal[
    "sender guest",
    "sender host",
    "uplink inner",
    "uplink outer",
    "router in host",
    "router in",
    "router out",
    "router out host",
    "receiver host",
    "receiver guest",
]
"""The part that an observation point plays on the way of a packet, in the order of the way.

`host` is the end of an interface on the other side of its owner: a TAP, a vif, a veth at a bridge.
An uplink is `inner` in dom0 and `outer` at its TAP; the two come after the sender or before the
receiver, wherever the Xen host is. With several routers on a way the role names all of them.
"""

KERNEL = "6.1"
"""The kernel series whose functions the explanations name."""


@dataclass(frozen=True)
class Cell:
    """What one kernel does with a packet at one stage."""

    does: str
    field: str
    """The checksum field afterwards: `partial`, `valid`, …"""
    note: str
    """What travels beside the packet."""
    role: Role | None = None
    """Where this can be observed, if anywhere."""


@dataclass(frozen=True)
class Stage:
    """One stage of a packet's way, in each story."""

    name: str
    cells: Mapping[Story, Cell]
    why: str = ""


@dataclass(frozen=True)
class Way:
    """A way to draw: between two guests of a topology, over an interface of theirs."""

    topology: str = ""
    """A topology file; empty for the one that the experiment runs on."""
    source: str = "vm1"
    destination: str = "vm2"
    interface: str | None = None
    """The same at both ends; None for the shortest way."""


@dataclass(frozen=True)
class Arm:
    """What an arm of the experiment must show, and why."""

    name: str
    change: str
    """What is set up in this arm."""
    states: tuple[tuple[Role, str], ...]
    """States of a packet from the source's, each from a role on until the next."""
    ssh: str
    """What becomes of SSH; empty where the arm sends something else."""
    why: str
    way: int | None = None
    """Which of the ways it takes; None for the first on the experiment's own topology."""


@dataclass(frozen=True)
class Workaround:
    """Something that makes it work, and its price."""

    how: str
    cost: str


@dataclass(frozen=True)
class Explanation:
    """An experiment explained."""

    name: str
    title: str
    topology: str
    hypothesis: str
    """These three are used as long as there is no experiment of this name to say them itself."""
    mechanism: str
    ways: tuple[Way, ...]
    stages: tuple[Stage, ...]
    arms: tuple[Arm, ...]
    evidence: tuple[str, ...]
    """What else must be seen, beside the states at the hops."""
    workarounds: tuple[Workaround, ...]
    useless: tuple[Workaround, ...] = ()
    """What people try and what comes of it; `cost` says why it does not help."""
    other: str = ""
    """The experiment that tells the same of the other story."""
    limits: tuple[str, ...] = ()
    """What the experiment does not show."""

    @property
    def stories(self) -> tuple[Story, ...]:
        """The stories told side by side, in their order."""
        return tuple(self.stages[0].cells)

    def way_of(self, arm: Arm) -> int:
        """Return which of the ways an arm takes."""
        if arm.way is not None:
            return arm.way
        return next(number for number, way in enumerate(self.ways) if not way.topology)
