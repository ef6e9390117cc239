"""Contexts in which real things live: an agent inside, ways to run programs there.

A sandbox is the context a lab makes for itself; a Xen host has another one inside, its dom0.
"""

from __future__ import annotations

import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from labctl.errors import DeadlineError
from labctl.sandbox import agent
from labctl.sandbox.client import Agent
from labctl.sandbox.deadline import Deadline

ENDING_SECONDS = 2.0

P = ParamSpec("P")
T = TypeVar("T")


class ExecutionContext(ABC):
    """Where real things of a lab live, and our functions can run."""

    directory: Path
    """Where programs of ours leave files, as this place names it."""
    python: Sequence[str] = (sys.executable, "-P")
    """The words that start the Python there with labctl in it."""

    def __init__(self, directory: Path) -> None:
        """Hold a place whose files are in `directory`."""
        self.directory = directory
        self._agent: Agent | None = None
        self._starting = threading.Lock()

    def agent(self) -> Agent:
        """Return this process's agent in the place, started when first needed."""
        with self._starting:
            if self._agent is None:
                self._agent = self._start_agent()
            return self._agent

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that is `remote` inside and return its result; see `Agent.call`."""
        return self.agent().call(function, *args, **kwargs)

    def close(self) -> None:
        """Let go of the agent."""
        if self._agent:
            self._agent.close()
            self._agent = None

    @abstractmethod
    def _start_agent(self) -> Agent:
        """Start an agent that is inside."""

    @abstractmethod
    def words(self, argv: Sequence[str], netns: str = "") -> list[str]:
        """Return the words that run a command in the place.

        `netns` names one of its network namespaces to run it in.
        """

    @abstractmethod
    def runs(self, pid: int, words: str = "") -> bool:
        """Whether the process that has this pid inside the place runs (a zombie does not).

        Where a pid has been known for long, `words` of its command line tell it from a later
        process that got the same number.
        """


class Sandbox(ExecutionContext):
    """The place that one lab makes, and that ends with it."""

    @abstractmethod
    def process(self, pid: int) -> Path:
        """Return the folder of proc(5) of the process that has this pid inside the sandbox."""

    def runs(self, pid: int, words: str = "") -> bool:
        """Whether the process that has this pid inside the sandbox runs, with these words."""
        return in_state_of_running(self.process(pid), words)

    def is_stopped(self, pid: int) -> bool:
        """Whether a signal has stopped that process (proc_pid_stat(5), T)."""
        return state_letter(self.process(pid)) == "T"

    def _start_agent(self) -> Agent:
        return Agent.start(self.words([*self.python, "-m", agent.__name__]), self.why_closed)

    def why_closed(self) -> str:
        """Say whether the sandbox has ended with its agent, or the agent alone.

        When a sandbox ends its agent goes before its PID 1, so that gets a moment.
        """
        deadline = Deadline(ENDING_SECONDS, "seeing a sandbox end")
        while self.lives:
            try:
                deadline.pause(0.02)
            except DeadlineError:
                return "the agent that works in the lab has ended; the lab is up"
        return "the lab went down meanwhile"

    @property
    @abstractmethod
    def lives(self) -> bool:
        """Whether the sandbox is there."""

    def words(self, argv: Sequence[str], netns: str = "") -> list[str]:
        """Return the words that run a command in the sandbox or in one of its namespaces."""
        return [*self.enter(netns), *argv]

    @abstractmethod
    def enter(self, netns: str = "") -> list[str]:
        """Return the words to put before a command so that it runs in the sandbox."""

    @abstractmethod
    def keep(self) -> None:
        """Let the sandbox outlive this process."""

    @abstractmethod
    def end(self) -> None:
        """End the sandbox and remove its directory."""


def state_letter(folder: Path) -> str:
    """Return the state of the process whose folder of proc(5) this is; empty without one."""
    try:
        return (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def in_state_of_running(folder: Path, words: str) -> bool:
    """Whether a folder of proc(5) is that of a process, no zombie, with `words` in its command."""
    if state_letter(folder) in ("", "Z", "X"):
        return False
    try:
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
        return words.encode() in command
    except OSError:
        return False


class Process:
    """A long-running program in a sandbox, started by this process's agent."""

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
        limit: int = 0,
    ) -> Process:
        """Start `argv` with its output in files; detached, it outlives this labctl process.

        It is killed once it has written more than `limit` bytes to one of them (0: no limit).
        """
        return cls(owner, owner.call(agent.spawn, argv, stdout, stderr, netns, detached, limit))

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
