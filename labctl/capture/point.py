"""Where a capture looks, and what starts the observer there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labctl.errors import UsageError
from labctl.kinds import registry
from labctl.kinds.base import Look
from labctl.kinds.observers import DEFAULT

SNAP = 262144
"""Bytes kept of each frame by default: everything, since only a whole packet can be judged."""


@dataclass(frozen=True)
class Point:
    """One observation point: the hop's name and the words that start its observer."""

    hop: str
    argv: tuple[str, ...]


def host_point(
    hop: str, iface: str, netns: str = "", snap: int = SNAP, observer: str = DEFAULT
) -> Point:
    """Observe an interface of the sandbox the observer is started in, or of a named namespace.

    Raises `UsageError` for an observer that cannot look there.
    """
    words = registry.observer(observer).words(Look(hop, iface, netns, snap))
    if not words:
        raise UsageError(f"the observer {observer} cannot look at {hop}", "labctl kinds has others")
    return Point(hop, tuple(words))


def guest_point(
    hop: str,
    iface: str,
    ssh_argv: Sequence[str],
    netns: str = "",
    snap: int = SNAP,
    observer: str = DEFAULT,
) -> Point:
    """Observe an interface inside a guest that has Perl, or in a named namespace there.

    `ssh_argv` ends with the guest's name. Raises `UsageError` for an observer that cannot look in a
    guest.
    """
    command = registry.observer(observer).guest_command(Look(hop, iface, netns, snap))
    if not command:
        raise UsageError(f"the observer {observer} cannot look at {hop}", "labctl kinds has others")
    return Point(hop, (*ssh_argv, command))
