"""Experiments that other packages bring, found by their entry points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from labctl.errors import UsageError, shown
from labctl.experiments.builtin import BUILTIN
from labctl.experiments.model import Experiment

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "labctl.experiments"
OURS = "labctl"
"""The distribution that declares the shipped ones."""


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
    from importlib.metadata import entry_points  # here: most commands need none, and it is slow

    declared: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        if point.dist is None or point.dist.name != OURS:
            declared.setdefault(point.name, []).append(point)
    return tuple(_entry(name, declared[name]) for name in sorted(declared))


def _entry(name: str, points: list[EntryPoint]) -> Entry:
    by = sorted(f"{one.dist.name} {one.dist.version}" for one in points if one.dist)
    package = by[-1] if by else "an unknown package"
    if name in BUILTIN:
        by.insert(0, OURS)
    what = f"the experiment {shown(name)}"
    if len(by) > 1:
        problem = f"{what} is declared twice: by {' and by '.join(by)}"
        return Entry(name, package, None, problem)
    try:
        found = points[0].load()
    except Exception as wrong:  # whatever a stranger's module does when it is imported
        why = f"{type(wrong).__name__}: {wrong}".splitlines()[0]
        return Entry(name, package, None, f"{what} of {package} cannot be imported: {why}")
    if not isinstance(found, Experiment):
        return Entry(name, package, None, f"{what} of {package} is none")
    if found.name != name:
        problem = f"{what} of {package} calls itself {shown(found.name)}"
        return Entry(name, package, None, problem)
    return Entry(name, package, replace(found, package=package))
