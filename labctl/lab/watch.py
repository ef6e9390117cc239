"""Evidence from a running lab: captures at its hops, counters and drop reasons in its guests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from labctl.capture import drops
from labctl.capture.session import Capture, Handle, Point, guest_point, host_point
from labctl.lab.begun import Begun
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
    by_ssh = {
        one.argv: lab.node(hop.owner if hop.place == "guest" else hop.host)
        for one, hop in zip(points, hops, strict=True)
        if hop.place == "guest" or hop.host
    }

    def spawn(argv: Sequence[str], *, stdout: Path, stderr: Path) -> Handle:
        def start() -> Process:
            return Process.start(lab.world.agent(), argv, stdout=stdout, stderr=stderr)

        if tuple(argv) not in by_ssh:
            return start()
        there = by_ssh[tuple(argv)]
        return Begun(start, lambda: stdout.exists() and stdout.stat().st_size > 0, there.check)

    return Capture(
        points,
        directory,
        deadline=Deadline(START_SECONDS, "starting the observers"),
        spawn=spawn,
    )


def _point(lab: Lab, hop: Hop) -> Point:
    netns = hop.owner if hop.place == "router" else ""
    where = hop.owner if hop.place == "guest" else hop.host
    if where:
        return guest_point(hop.name, hop.link, lab.node(where).ssh_argv(), netns)
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
