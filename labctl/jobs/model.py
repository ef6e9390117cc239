"""What is run, where there is room for it, and what an engine has to be able to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, order=True)
class Need:
    """What a job takes of a place."""

    cores: int
    memory: int
    """MiB."""


@dataclass(frozen=True)
class Place:
    """Something that runs jobs: this machine, or a worker on another one."""

    name: str
    """Another one each time it is started."""
    cores: int
    memory: int
    """MiB."""
    machine: str = ""
    """The machine it is on; a job that broke off is not tried there again."""

    def ever_holds(self, need: Need) -> bool:
        """Whether a job fits when nothing else runs; one that wants more cores gets all of them."""
        return need.memory <= self.memory


@dataclass(frozen=True)
class Job:
    """A command of labctl that is run to its end."""

    name: str
    """No other job has it."""
    words: tuple[str, ...]
    """What follows `labctl`."""
    need: Need
    deadline: float
    """Seconds; then it is told to end, and after `GRACE` seconds ended."""
    expected: float = 0.0
    """Seconds that it will take, as far as that is known: the longest are started first."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Texts that it finds in its working folder, by name: another machine has not got the user's
    files. Where there is none, it works where this process does."""


class How(StrEnum):
    """How a try to run a job came to its end."""

    ENDED = "ended"
    """Its process ended by itself, whatever came of it."""
    CRASHED = "crashed"
    """A signal ended its process, or it could not be started."""
    DEADLINE = "deadline"
    """It took longer than it may, and was ended."""
    LOST = "lost"
    """The place or the way to it was lost."""
    STOPPED = "stopped"
    """The user interrupted it."""
    NO_PLACE = "no place"
    """No place is large enough, or none is left."""


BROKE_OFF = frozenset({How.CRASHED, How.LOST})
"""Then the place may be to blame, and not the job."""
GRACE = 60.0
"""Seconds in which a job takes its lab down when it is told to end."""


@dataclass(frozen=True)
class Ended:
    """The end of a try."""

    job: Job
    place: str
    how: How
    reason: str = ""
    """Why, where it did not end by itself; else the last words of its output."""
    status: int | None = None
    """The exit status of the process that ended by itself."""


@dataclass(frozen=True)
class News:
    """What has happened at an engine's places."""

    ended: tuple[Ended, ...]
    places: Mapping[str, Place]
    """All that take jobs now, by name. The jobs of one that is missing are among the `ended`."""
    final: bool = False
    """Whether no other place will come."""


class Engine(Protocol):
    """Runs jobs at places. It decides nothing: where and when is the scheduler's."""

    def start(self, job: Job, place: str) -> None:
        """Start a job; what becomes of it, also that it cannot be started, is told by `wait`."""

    def wait(self, seconds: float) -> News:
        """Wait until something happens, at most so long, and tell."""

    def stop(self) -> None:
        """End all that runs and wait for it; nothing of it runs anywhere afterwards.

        It may be called again, and nothing is started any more.
        """
