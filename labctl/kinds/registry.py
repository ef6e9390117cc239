"""Finds kinds by entry points: those of labctl, and those of any package that is installed.

The shipped ones are known without a look at what is installed, which takes longer than all else
that reading a topology needs. Others are looked up when one is named, or all are to be listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from labctl.errors import UsageError, nearest, shown
from labctl.kinds.base import ForwarderKind
from labctl.kinds.forwarders import SHIPPED

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "labctl.forwarders"
OURS = "labctl"
"""The distribution that the shipped kinds are declared by."""


@dataclass(frozen=True)
class Entry:
    """A forwarder that is declared: its class, or why it cannot be used."""

    name: str
    distribution: str
    """The package that declares it, with its version."""
    kind: ForwarderKind | None
    problem: str = ""
    """Why there is no `kind`."""


def forwarder(name: str) -> ForwarderKind:
    """Return the forwarder of a name; raises `UsageError` where none can be had."""
    if name in SHIPPED:
        return _shipped(name)
    for entry in _others():
        if entry.name == name:
            if entry.kind is None:
                raise UsageError(entry.problem, "repair or remove what declares it")
            return entry.kind
    raise UsageError(f"there is no router kind {shown(name)}", nearest(name, names()))


def is_declared(name: str) -> bool:
    """Tell whether a forwarder of this name is declared, be it of use or not."""
    return name in SHIPPED or any(entry.name == name for entry in _others())


def find(name: str) -> ForwarderKind | None:
    """Return the forwarder of a name; None where it cannot be had, or the name is empty."""
    try:
        return forwarder(name) if name else None
    except UsageError:
        return None


def names() -> tuple[str, ...]:
    """Return the names of all forwarders that can be used."""
    return (*SHIPPED, *(entry.name for entry in _others() if entry.kind))


def usable() -> tuple[ForwarderKind, ...]:
    """Return all forwarders that can be used, the shipped ones first."""
    return tuple(entry.kind for entry in entries() if entry.kind)


def entries() -> tuple[Entry, ...]:
    """Return all forwarders that are declared, the shipped ones first."""
    from labctl.version import __version__

    ours = (Entry(name, f"{OURS} {__version__}", _shipped(name)) for name in SHIPPED)
    return (*ours, *_others())


def forget() -> None:
    """Look anew at what is installed when next asked; for who installs something meanwhile."""
    _others.cache_clear()


@cache
def _shipped(name: str) -> ForwarderKind:
    module, _, cls = SHIPPED[name].partition(":")
    kind: ForwarderKind = getattr(import_module(module), cls)()
    return kind


@cache
def _others() -> tuple[Entry, ...]:
    """Return what other packages declare, in the order of names."""
    from importlib.metadata import entry_points

    declared: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        if point.dist is None or point.dist.name != OURS:
            declared.setdefault(point.name, []).append(point)
    return tuple(_entry(name, declared[name]) for name in sorted(declared))


def _entry(name: str, points: list[EntryPoint]) -> Entry:
    by = sorted(_distribution(point) for point in points)
    if name in SHIPPED:
        by.insert(0, OURS)
    if len(by) > 1:
        problem = f"the router kind {shown(name)} is declared twice: by {' and by '.join(by)}"
        return Entry(name, by[-1], None, problem)
    what = f"the router kind {shown(name)} of {by[0]}"
    try:
        found = points[0].load()
        kind = found() if isinstance(found, type) and issubclass(found, ForwarderKind) else None
    except Exception as wrong:  # whatever a stranger's module does when it is imported
        why = f"{type(wrong).__name__}: {wrong}".splitlines()[0]
        return Entry(name, by[0], None, f"{what} cannot be imported: {why}")
    if kind is None:
        return Entry(name, by[0], None, f"{what} is no subclass of ForwarderKind")
    needed = ("name", "summary", "effect", "counters")
    if lacks := [one for one in needed if not hasattr(kind, one)]:
        return Entry(name, by[0], None, f"{what} lacks {', '.join(lacks)}")
    if kind.name != name:
        return Entry(name, by[0], None, f"{what} calls itself {shown(kind.name)}")
    return Entry(name, by[0], kind)


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
