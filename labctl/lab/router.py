"""A router of a running lab: what forwards between its networks, and how to change it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from labctl.capture import drops
from labctl.errors import HostError
from labctl.network import features
from labctl.routers import namespace
from labctl.topology import model
from labctl.world import agent, codec, jsontext
from labctl.world.base import Place, Process
from labctl.world.deadline import Deadline
from labctl.world.process import Result, last_words

COMMAND_SECONDS = 30.0
START_SECONDS = 120.0
"""A dom0 whose guests boot meanwhile takes its time; this only catches the dead."""
LOOK_SECONDS = 0.02
PROGRAM = "labctl.routers.raw"


class Router:
    """A router of a running lab."""

    def __init__(self, place: Place, directory: Path, router: model.Router) -> None:
        """Hold a router in a place, of the lab in `directory`; `Lab.router` makes one."""
        self._place = place
        self.model = router
        self.name = router.name
        folder = directory / "routers"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._kind = folder / f"{router.name}.kind"
        self._pid = folder / f"{router.name}.pid"
        self._out = place.directory / f"router-{router.name}.out"
        self._err = place.directory / f"router-{router.name}.err"

    @property
    def kind(self) -> model.RouterKind | None:
        """What forwards now; None while nothing does."""
        if not self._kind.exists():
            return None
        kind: model.RouterKind = self._kind.read_text()  # type: ignore[assignment]
        if kind != "namespace" and not self._place.runs(int(self._pid.read_text() or "0"), PROGRAM):
            return None
        return kind

    def run(self, argv: Sequence[str], *, timeout: float = COMMAND_SECONDS) -> Result:
        """Run a program in the router's network namespace."""
        words = ["nsenter", f"--net=/run/netns/{self.name}", "--", *argv]
        return self._place.agent().run(words, Deadline(timeout, f"{argv[0]} in {self.name}"))

    def set_kind(self, kind: model.RouterKind) -> None:
        """Let this kind of forwarding take over; what forwarded before is ended first.

        Raises `HostError` when the program does not start.
        """
        self.stop()
        self._place.call(namespace.set_forwarding, self.model, kind == "namespace")
        if kind != "namespace":
            self._start_program(vnet=kind == "raw-vnet")
        self._kind.write_text(kind)

    def _start_program(self, vnet: bool) -> None:
        words = [*self._place.python, "-m", PROGRAM, "--netns", self.name]
        if vnet:
            words.append("--vnet")
        words += [interface.name for interface in self.model.interfaces]
        for file in (self._out, self._err):
            self._place.call(agent.remove, file)
        program = Process.start(
            self._place.agent(), words, stdout=self._out, stderr=self._err, detached=True
        )
        self._pid.write_text(str(program.pid))
        deadline = Deadline(START_SECONDS, f"starting the router program of {self.name}")
        while "ready" not in self._said():
            if program.poll() is not None:
                said = last_words(self._place.call(agent.read, self._err))
                raise HostError(f"the router program of {self.name} ended: {said}")
            deadline.pause(LOOK_SECONDS)

    def _said(self) -> str:
        """Return what the program has printed."""
        return self._place.call(agent.read, self._out)

    def stop(self) -> None:
        """Let nothing forward any more."""
        self._place.call(namespace.set_forwarding, self.model, False)
        self._kind.unlink(missing_ok=True)
        if self._pid.exists():
            pid = int(self._pid.read_text() or "0")
            deadline = Deadline(START_SECONDS, f"ending the router program of {self.name}")
            while self._place.runs(pid, PROGRAM):
                self._place.call(agent.kill, pid, signal.SIGTERM)
                deadline.pause(LOOK_SECONDS)
            self._pid.unlink()

    def counters(self) -> dict[str, int]:
        """Return the counters of what forwards: the program's, or the namespace's kernel's.

        A program's are named as in `labctl.routers.raw.COUNTERS`, the kernel's such as
        `IpOutNoRoutes`. Empty while nothing forwards. Raises `HostError` for what is none: in a
        dom0 anything may have written it.
        """
        kind = self.kind
        if kind is None:
            return {}
        if kind == "namespace":
            return drops.parse_counters(self.run(["sh", "-c", drops.COUNTERS_COMMAND]).stdout)
        told = self._said()
        self._place.call(agent.kill, int(self._pid.read_text()), signal.SIGUSR1)
        deadline = Deadline(START_SECONDS, f"asking the router program of {self.name}")
        while not (news := self._said()[len(told) :]).endswith("\n"):
            deadline.pause(LOOK_SECONDS)
        return _counters(news.splitlines()[-1], self.name)

    @contextlib.contextmanager
    def as_kind(self, kind: model.RouterKind) -> Iterator[None]:
        """Forward by another kind for the length of a `with` block."""
        before = self.kind
        self.set_kind(kind)
        try:
            yield
        finally:
            if before:
                self.set_kind(before)
            else:
                self.stop()

    def features(self, interface: str, *, bridge_side: bool = False) -> features.Features:
        """Return the offload features of a veth end: the router's own, or the bridge's side."""
        link, netns = self._end(interface, bridge_side)
        return self._place.call(features.read, link, netns)

    @contextlib.contextmanager
    def offload(
        self, wanted: Mapping[str, bool], interface: str, *, bridge_side: bool = False
    ) -> Iterator[None]:
        """Set offload features of a veth end for the length of a `with` block."""
        link, netns = self._end(interface, bridge_side)
        before = self._place.call(features.change, link, dict(wanted), netns)
        try:
            yield
        finally:
            self._place.call(features.restore, link, before, netns)

    def _end(self, interface: str, bridge_side: bool) -> tuple[str, str]:
        for one in self.model.interfaces:
            if one.name == interface:
                return (one.peer, "") if bridge_side else (one.name, self.name)
        raise HostError(f"{self.name} has no interface {interface}")


def _counters(line: str, name: str) -> dict[str, int]:
    """Read the line that a router's program prints when it is asked."""
    try:
        told = jsontext.parse(line.encode())
        counted: dict[str, int] = codec.read(dict(told)["counters"], dict[str, int])
    except (jsontext.CodecError, KeyError, TypeError, ValueError) as wrong:
        said = last_words(line)[:100]
        raise HostError(f"the router program of {name} told no counters: {said}") from wrong
    return counted
