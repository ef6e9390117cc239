"""Experiments that other packages bring, found by their entry points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from labctl.errors import UsageError, shown
from labctl.experiments.builtin import BUILTIN
from labctl.experiments.model import Experiment
from labctl.kinds import declared

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "labctl.experiments"


@dataclass(frozen=True)
class Entry:
    """An experiment that a package declares, or why it cannot be used."""

    name: str
    package: str
    """With its version."""
    experiment: Experiment | None
    problem: str = ""
    """Why there is no `experiment`."""


def find(name: str) -> Experiment | None:
    """Return the experiment of a name; None where no package declares it.

    Raises `UsageError` that says why one that is declared cannot be used.
    """
    for entry in entries():
        if entry.name == name:
            if entry.experiment is None:
                raise UsageError(entry.problem, "repair or remove what declares it")
            return entry.experiment
    return None


@cache
def entries() -> tuple[Entry, ...]:
    """Return what other packages than labctl declare, by name."""
    return tuple(_entry(name, points) for name, points in declared.others(GROUP).items())


def _entry(name: str, points: list[EntryPoint]) -> Entry:
    def make(found: object, what: str) -> tuple[Experiment | None, str]:
        if not isinstance(found, Experiment):
            return None, f"{what} is none"
        wrong = "" if found.name == name else f"{what} calls itself {shown(found.name)}"
        return (None if wrong else found), wrong

    found, package, problem = declared.load("experiment", points, make, is_ours=name in BUILTIN)
    return Entry(name, package, found and replace(found, package=package), problem)
