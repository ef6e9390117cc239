"""What a kind is, and what it may do: the part that others write against (docs/kinds.md).

Standard library only: this is imported by every command, and in a dom0 too.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar, Protocol


class Effect(Enum):
    """What an element does to an unfinished checksum that passes it."""

    KEEPS = "keeps"
    """It goes on unfinished, and the note that it is unfinished goes with it."""
    LOSES = "loses"
    """It goes on unfinished, and nothing tells of that any more."""
    COMPLETES = "completes"
    """It is finished, so that it is valid from here on."""
    VERIFIES = "verifies"
    """It is taken for finished, and what is not right is dropped."""


@dataclass(frozen=True)
class Passing:
    """A packet that passes an element, as far as what becomes of it may hang on that."""

    protocol: str
    """Of its transport header: `tcp`, `udp`, `icmp`."""
    version: int
    """Of IP: 4 or 6."""
    entry: str = ""
    """The element's own interface by which it comes; empty where it begins there."""
    exit: str = ""
    """That by which it goes; empty where it ends there."""
    gso: bool = False
    """Whether it is a super-frame: longer than the MTU, to be cut later."""


@dataclass(frozen=True)
class Tool:
    """A program that a kind needs on the machine that runs labs."""

    program: str
    package: str
    """The Debian package that has it."""


@dataclass(frozen=True)
class Remedy:
    """Another kind that keeps checksums right where this one does not."""

    kind: str
    cost: str

    def how(self, router: str) -> str:
        """Return the setting that does it for good."""
        return f"kind: {self.kind} (router {router} in the topology)"


class Kind(ABC):
    """Something that a topology can name."""

    what: ClassVar[str]
    """What it is a kind of, such as `forwarder`."""
    name: ClassVar[str]
    """The word in YAML."""
    summary: ClassVar[str]
    """One line without its full stop: for `labctl kinds`, the schema and the docs' table."""
    effect: ClassVar[Effect]
    """What it does to an unfinished checksum; where packets fare differently, the worst of it."""
    requires: ClassVar[Sequence[Tool]] = ()
    """What must be installed; nothing is started where it is not."""

    def effect_on(self, passing: Passing) -> Effect:  # noqa: ARG002
        """Return the effect on one kind of packet: `effect`, unless a kind knows better."""
        return self.effect

    @property
    def explanation(self) -> str:
        """Markdown, from the file of the same name beside the kind's module; empty without one."""
        file = sys.modules[type(self).__module__].__file__
        page = Path(file).with_suffix(".md") if file else None
        return page.read_text(encoding="utf-8") if page and page.is_file() else ""


class RunningRouter(Protocol):
    """What a kind has of a router of a running lab: a network namespace with its interfaces.

    What it turns on by `set_kernel_forwarding` and `start_program` ends without the kind's help.
    All of these raise `LabctlError` for what does not work.
    """

    name: str
    """The router's name, which is its network namespace's too."""

    def run(self, argv: Sequence[str]) -> object:
        """Run a program in the namespace and wait for it."""

    def set_kernel_forwarding(self, on: bool) -> None:
        """Let the namespace's kernel forward IPv4 and IPv6, or not; it does not at first."""

    def kernel_forwards(self) -> bool:
        """Tell whether it does."""

    def kernel_counters(self) -> dict[str, int]:
        """Return the counters of the namespace's kernel, such as `IpOutNoRoutes`."""

    def start_program(self, module: str, *options: str) -> None:
        """Start a Python module as `python -m MODULE --netns NAME OPTIONS… INTERFACES…`.

        It writes a line with `ready` when it forwards, on SIGUSR1 a line of JSON with `counters`,
        and ends with SIGTERM.
        """

    def program_counters(self) -> dict[str, int]:
        """Return the counters that the program tells."""


class ForwarderKind(Kind):
    """What a router does between its networks."""

    what = "forwarder"
    counters: ClassVar[Mapping[str, str]]
    """The counters that grow where it drops a packet, each with the reason for which it does, as in
    `dropped at … because …`; those that tell most come first."""
    remedies: ClassVar[Sequence[Remedy]] = ()
    """What it offers where a checksum's metadata was lost in it; the best comes first."""

    @abstractmethod
    def start(self, router: RunningRouter) -> None:
        """Let the router forward; when this returns it does. Nothing forwards before."""

    def stop(self, router: RunningRouter) -> None:
        """Undo what `start` did besides kernel forwarding and a program, which end by themselves.

        It may be called twice, or after a `start` that failed.
        """

    def forwards(self, router: RunningRouter) -> bool:  # noqa: ARG002
        """Tell whether it still forwards; asked only while its program, if it has one, runs."""
        return True

    @abstractmethod
    def count(self, router: RunningRouter) -> dict[str, int]:
        """Return its counters now, those of `counters` among them."""
