"""Where a capture looks, and what starts the observer there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from labctl.errors import UsageError
from labctl.kinds import registry
from labctl.kinds.base import Context, Look
from labctl.kinds.observers import DEFAULT
from labctl.kinds.observers.frames import FrameObserver
from labctl.kinds.observers.stream import StreamParser

SNAP = 262144
"""Bytes kept of each frame by default: everything, since only a whole packet can be judged."""


@dataclass(frozen=True)
class Point:
    """One observation point: the hop's name and the words that start its observer."""

    hop: str
    argv: tuple[str, ...]
    parser: type[StreamParser] = StreamParser
    """What reads what it writes."""


def host_point(
    hop: str, iface: str, netns: str = "", snap: int = SNAP, observer: str = DEFAULT
) -> Point:
    """Observe an interface of the sandbox the observer is started in, or of a named namespace.

    Raises `UsageError` for an observer that cannot look there.
    """
    return Point(hop, _words(observer, Look(hop, (iface,), netns, snap)))


def guest_point(
    hop: str,
    iface: str,
    ssh_argv: Sequence[str],
    netns: str = "",
    snap: int = SNAP,
    observer: str = DEFAULT,
    context: Context = Context.GUEST,
    program: str = "",
) -> Point:
    """Observe an interface inside a guest, or a dom0; or in a named namespace there.

    `ssh_argv` ends with its name. It has Perl, unless another `program` of an observer's is named.
    Raises `UsageError` for an observer that cannot look there.
    """
    look = Look(hop, (iface,), netns, snap, context, program)
    words = _words(observer, look)
    kind = registry.observer(observer)
    parser = kind.reader_of(look) if isinstance(kind, FrameObserver) else StreamParser
    return Point(hop, (*ssh_argv, shlex.join(words)), parser)


def _words(observer: str, look: Look) -> tuple[str, ...]:
    kind = registry.observer(observer)
    if why_not := kind.can_run(look):
        what = f"the observer {observer} cannot look at {look.hop}: {why_not}"
        raise UsageError(what, "leave it out, or take another one: labctl kinds")
    return tuple(kind.start(look))
