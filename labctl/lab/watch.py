"""Evidence from a running lab: captures at its hops, counters and drop reasons in its guests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from labctl.capture import drops
from labctl.capture.session import Capture, Handle, Point, Spawn, guest_point, host_point
from labctl.capture.xenflags import FlagsWatch
from labctl.guests.begun import Begun
from labctl.lab.lab import Lab
from labctl.lab.node import Node
from labctl.lab.path import Hop
from labctl.world.base import Process
from labctl.world.deadline import Deadline
from labctl.world.process import CommandError

START_SECONDS = 60.0
"""For all observers to be ready; Perl takes a second to start in a busy emulated guest."""


def capture(lab: Lab, hops: Sequence[Hop], directory: Path) -> Capture:
    """Prepare a capture at hops; its streams go to `directory`. Use it as a context manager."""
    points = [_point(lab, hop) for hop in hops]
    there = {point.argv: _observed_in(lab, hop) for point, hop in zip(points, hops, strict=True)}
    return Capture(
        points,
        directory,
        deadline=Deadline(START_SECONDS, "starting the observers"),
        spawn=_spawning(lab, lambda argv: there[tuple(argv)]),
    )


def watch_flags(lab: Lab, host: str, vifs: Sequence[str], directory: Path) -> FlagsWatch:
    """Prepare to watch what the rings of some vifs on a Xen host say; a context manager.

    Raises `UsageError` for a host that the lab does not have.
    """
    dom0 = lab.node(host)
    return FlagsWatch(
        vifs,
        dom0.ssh_argv(),
        directory / "flags.text",
        deadline=Deadline(START_SECONDS, "starting the observer of the flags"),
        spawn=_spawning(lab, lambda _argv: dom0),
    )


def _spawning(lab: Lab, place: Callable[[Sequence[str]], Node | None]) -> Spawn:
    """Return what starts an observer, again where ssh(1) lost it; `place` tells whom it goes to."""

    def spawn(argv: Sequence[str], *, stdout: Path, stderr: Path) -> Handle:
        def start() -> Process:
            return Process.start(lab.world.agent(), argv, stdout=stdout, stderr=stderr)

        there = place(argv)
        if there is None:
            return start()
        return Begun(start, lambda: stdout.exists() and stdout.stat().st_size > 0, there.check)

    return spawn


def _observed_in(lab: Lab, hop: Hop) -> Node | None:
    """Return the guest or the Xen host to observe a hop from, None for the lab's own world."""
    where = hop.owner if hop.place == "guest" else hop.host
    return lab.node(where) if where else None


def _point(lab: Lab, hop: Hop) -> Point:
    netns = hop.owner if hop.place == "router" else ""
    if there := _observed_in(lab, hop):
        return guest_point(hop.name, hop.link, there.ssh_argv(), netns)
    return host_point(hop.name, hop.link, netns)


def counters(node: Node) -> dict[str, int]:
    """Return the kernel's protocol counters of a guest, such as `TcpInCsumErrors`."""
    return drops.parse_counters(node.run(drops.COUNTERS_COMMAND).stdout)


class DropWatch:
    """The drops a guest's kernel tells of, from the moment it was made."""

    def __init__(self, node: Node, why_not: str) -> None:
        """Hold a started watch; `watch_drops` makes one."""
        self._node = node
        self.why_not = why_not
        """Why this guest's kernel cannot tell, empty when it can."""

    def read(self) -> tuple[drops.Drop, ...]:
        """Return the drops so far."""
        if self.why_not:
            return ()
        return drops.parse_drops(self._node.run(drops.READ_COMMAND).stdout)


@contextlib.contextmanager
def watch_drops(node: Node, reasons: Iterable[str] = ()) -> Iterator[DropWatch]:
    """Record packet drops with their reasons in a guest for the length of a `with` block."""
    why_not = ""
    try:
        node.run(drops.watch_command(reasons))
    except CommandError as refused:
        why_not = f"the kernel of {node.name} does not trace drops: {refused.message}"
    try:
        yield DropWatch(node, why_not)
    finally:
        if not why_not:
            node.run(drops.UNWATCH_COMMAND)
