"""What a world is to the rooms above: a directory, an agent inside, ways to run programs in it."""

from __future__ import annotations

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from labctl.world import agent
from labctl.world.client import Agent
from labctl.world.deadline import Deadline

P = ParamSpec("P")
T = TypeVar("T")


class World(ABC):
    """A place where the real things of one lab live."""

    def __init__(self, directory: Path) -> None:
        """Hold a world whose files are in `directory`."""
        self.directory = directory
        self._agent: Agent | None = None
        self._starting = threading.Lock()

    def agent(self) -> Agent:
        """Return this process's agent in the world, started when first needed."""
        with self._starting:
            if self._agent is None:
                self._agent = Agent(self.enter())
            return self._agent

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a module-level function inside the world and return its result."""
        return self.agent().call(function, *args, **kwargs)

    def close(self) -> None:
        """Let go of the agent."""
        if self._agent:
            self._agent.close()
            self._agent = None

    @abstractmethod
    def enter(self, netns: str = "") -> list[str]:
        """Return the words to put before a command so that it runs in the world.

        `netns` names one of the world's network namespaces to run it in.
        """

    @abstractmethod
    def runs(self, pid: int, words: str = "") -> bool:
        """Whether the process that has this pid inside the world runs (a zombie does not).

        Where a pid has been known for long, `words` of its command line tell it from a later
        process that got the same number.
        """

    @abstractmethod
    def keep(self) -> None:
        """Let the world outlive this process."""

    @abstractmethod
    def end(self) -> None:
        """End the world and remove its directory."""


def in_state_of_running(folder: Path, words: str) -> bool:
    """Whether a folder of proc(5) is that of a process, no zombie, with `words` in its command."""
    try:
        if (folder / "stat").read_text().rpartition(")")[2].split()[0] in "ZX":
            return False
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
        return words.encode() in command
    except OSError:
        return False


class Process:
    """A long-running program in a world, started by this process's agent."""

    def __init__(self, owner: Agent, pid: int) -> None:
        """Hold a running program; `start` makes one."""
        self._agent = owner
        self._status: int | None = None
        self._finished = False
        self.pid = pid

    @classmethod
    def start(
        cls,
        owner: Agent,
        argv: Sequence[str],
        *,
        stdout: Path,
        stderr: Path,
        netns: str = "",
        detached: bool = False,
    ) -> Process:
        """Start `argv` with its output in files; detached, it outlives this labctl process."""
        return cls(owner, owner.call(agent.spawn, argv, stdout, stderr, netns, detached))

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        if self._status is None:
            self._status = self._agent.call(agent.poll, self.pid)
        return self._status

    def finish(self, deadline: Deadline) -> int:
        """Close its standard input, wait for its end, return its exit status."""
        if not self._finished:
            self._status = self._agent.call(agent.finish, self.pid, deadline)
            self._finished = True
        assert self._status is not None
        return self._status

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Signal it."""
        self._agent.call(agent.kill, self.pid, number)
