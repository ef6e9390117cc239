"""Evidence from a running lab: captures at its hops, counters and drop reasons in its guests."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from labctl.capture import counters as kernel_counters
from labctl.capture.limits import Limits
from labctl.capture.point import Point, guest_point, host_point
from labctl.capture.session import Capture
from labctl.capture.spawn import Handle, Spawn
from labctl.capture.xenflags import FlagsWatch
from labctl.errors import GuestError, HostError, LabctlError, UsageError
from labctl.guests.ssh_retry import RetriedCommand
from labctl.kinds import registry
from labctl.kinds.base import Context, Look, Reader, Tool
from labctl.kinds.observers import DEFAULT, DROPS
from labctl.kinds.observers.drops import Drop, watching
from labctl.lab.lab import Lab
from labctl.lab.node import COMMAND_SECONDS, Node
from labctl.sandbox import owned, process
from labctl.sandbox.base import Process
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import CommandError, last_lines
from labctl.topology.points import ObservationPoint

START_SECONDS = 60.0
"""For all observers to be ready; Perl takes a second to start in a busy emulated guest."""
WATCH_SECONDS = COMMAND_SECONDS
MOST_LEFT = 100
"""Watches that are swept at once: each takes a command."""


def capture(
    lab: Lab,
    hops: Sequence[ObservationPoint],
    directory: Path,
    seconds: float = START_SECONDS,
    limits: Limits | None = None,
) -> Capture:
    """Prepare a capture at hops; its streams go to `directory`. Use it as a context manager.

    Its observers must be ready in so many seconds.
    """
    _check_observers(hops)
    points = [_point(lab, hop) for hop in hops]
    there = {point.argv: _observed_in(lab, hop) for point, hop in zip(points, hops, strict=True)}
    return Capture(
        points,
        directory,
        deadline=Deadline(seconds, "starting the observers"),
        spawn=_spawning(lab, lambda argv: there[tuple(argv)]),
        limits=limits,
    )


def capture_folder(lab: Lab) -> contextlib.AbstractContextManager[Path]:
    """Give a folder that the lab's sandbox sees, for a capture that is over when it is left.

    Who was killed leaves one, which the next removes.
    """
    captures = lab.directory / "captures"
    captures.mkdir(mode=0o700, exist_ok=True)
    return owned.temporary(captures, "live-")


def watch_flags(lab: Lab, host: str, vifs: Sequence[str], directory: Path) -> FlagsWatch:
    """Prepare to watch what the rings of some vifs on a Xen host say; a context manager.

    Raises `UsageError` for a host that the lab does not have, or that is none.
    """
    dom0 = lab.node(host)
    if not dom0.model.guest_kind.is_host:
        raise UsageError(f"{host} is no Xen host: it has no rings", "name the host of the guests")
    return FlagsWatch(
        vifs,
        dom0.ssh_argv(),
        directory / "flags.text",
        deadline=Deadline(START_SECONDS, "starting the observer of the flags"),
        spawn=_spawning(lab, lambda _argv: dom0),
    )


def _spawning(lab: Lab, place: Callable[[Sequence[str]], Node | None]) -> Spawn:
    """Return what starts an observer, again where ssh(1) lost it; `place` tells whom it goes to."""

    def spawn(argv: Sequence[str], *, stdout: Path, stderr: Path, limit: int = 0) -> Handle:
        def start() -> Process:
            agent = lab.sandbox.agent()
            return Process.start(agent, argv, stdout=stdout, stderr=stderr, limit=limit)

        there = place(argv)
        if there is None:
            return start()
        return RetriedCommand(
            start, lambda: stdout.exists() and stdout.stat().st_size > 0, there.check
        )

    return spawn


def _observed_in(lab: Lab, hop: ObservationPoint) -> Node | None:
    """Return the guest or the Xen host to observe a hop from, None for the lab's own sandbox."""
    return lab.node(hop.context) if hop.context else None


def _point(lab: Lab, hop: ObservationPoint) -> Point:
    if there := _observed_in(lab, hop):
        tools = there.model.tools if hop.in_guest else None
        return guest_point(
            hop.name, hop.link, there.ssh_argv(), hop.netns,
            observer=hop.observer or DEFAULT, context=hop.looks_into,
            program=tools.observer if tools else "",
        )  # fmt: skip
    return host_point(hop.name, hop.link, hop.netns, observer=hop.observer or DEFAULT)


def _check_observers(hops: Sequence[ObservationPoint]) -> None:
    """Raise `HostError` for what an observer needs and this host lacks, before any is started."""
    for name in dict.fromkeys(hop.observer for hop in hops if hop.observer):
        kind = registry.observer(name)
        for tool in kind.requires:
            if isinstance(tool, Tool) and not shutil.which(
                tool.program, path=process.ENVIRONMENT["PATH"]
            ):
                what = f"{tool.program} is not installed, which the observer {name} needs"
                raise HostError(what, f"as root, run: apt-get install {tool.package}")


def counters(node: Node, seconds: float = COMMAND_SECONDS) -> dict[str, int]:
    """Return the kernel's protocol counters of a guest, such as `TcpInCsumErrors`.

    Raises `GuestError` naming the guest for what no kernel says.
    """
    try:
        said = node.run(kernel_counters.COUNTERS_COMMAND, timeout=seconds).stdout
        return kernel_counters.parse_counters(said)
    except kernel_counters.CountersError as odd:
        raise GuestError(f"{node.name}: {odd.message}", odd.hint) from None


class DropWatch:
    """The drops a guest's kernel tells of, from the moment it was made."""

    def __init__(self, node: Node, look: Look, why_not: str, seconds: Callable[[], float]) -> None:
        """Hold a started watch; `watch_drops` makes one."""
        self._node = node
        self._seconds = seconds
        self._look = look
        self.why_not = why_not
        """Why this guest's kernel cannot tell, empty when it can."""

    def read(self) -> tuple[Drop, ...]:
        """Return the drops so far."""
        if self.why_not:
            return ()
        kind = registry.observer(DROPS)
        reader: Reader[tuple[Drop, ...]] = kind.reader()
        told = self._node.run(kind.ask(self._look), timeout=self._seconds())
        reader.feed(told.stdout.encode())
        return reader.evidence()


@contextlib.contextmanager
def watch_drops(
    node: Node, reasons: Iterable[str] = (), *, seconds: Callable[[], float] = lambda: WATCH_SECONDS
) -> Iterator[DropWatch]:
    """Record packet drops with their reasons in a guest for the length of a `with` block.

    `seconds` tells how long a command in the guest may take when it is to be run. Any number of
    watches may go on in a guest at once. What a killed one left is removed here.
    """
    kind = registry.observer(DROPS)
    context = Context.GUEST if node.model.guest_kind.is_machine else Context.LAB
    if why_not := kind.can_run(Look(node.name, context=context)):
        why_not = f"no drops in {node.name} are traced: {why_not}"
        yield DropWatch(node, Look(node.name, context=context), why_not, seconds)
        return
    with _claimed(node) as claim:
        look = Look(claim.name, context=context, only=tuple(reasons))
        reader: Reader[tuple[Drop, ...]] = kind.reader()
        try:
            said = node.run(kind.start(look), timeout=seconds()).stdout
            reader.feed(said.encode())
            if not reader.ready:
                why_not = last_lines(reader.why_not) or "it did not say that it begins"
        except CommandError as refused:
            why_not = refused.message
        try:
            if why_not:
                why_not = f"the kernel of {node.name} does not trace drops: {why_not}"
            else:
                _sweep(node, watching(said), seconds)
            yield DropWatch(node, look, why_not, seconds)
        finally:
            node.run(kind.stop(look), check=not why_not, timeout=seconds())
            claim.unlink(missing_ok=True)


@contextlib.contextmanager
def _claimed(node: Node) -> Iterator[Path]:
    """Give a new watch's file in the lab's directory, named by its token and locked by us.

    The lock ends with its process, however that ends. The file outlives a watch that could not be
    ended, so that whoever comes next knows it for a leftover.
    """
    claim = node.directory / "watches" / secrets.token_hex(4)
    try:
        claim.parent.mkdir(mode=0o700, exist_ok=True)
        file = claim.open("x")
    except OSError as wrong:
        raise LabctlError(f"cannot watch drops in {node.name}: {wrong}") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield claim


def _sweep(node: Node, tokens: Iterable[str], seconds: Callable[[], float]) -> None:
    """Remove what watches have left in a guest whose processes are dead.

    A watch is locked before it is made, so one that is there and not locked has no owner; what has
    no file here is not known, and left alone.
    """
    for token in itertools.islice(tokens, MOST_LEFT):
        if not re.fullmatch("[0-9a-f]{1,64}", token):
            continue  # none of ours, whatever the guest says
        claim = node.directory / "watches" / token
        with contextlib.suppress(OSError), claim.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left = registry.observer(DROPS).stop(Look(token, context=Context.GUEST))
            node.run(left, check=False, timeout=seconds())
            claim.unlink(missing_ok=True)
