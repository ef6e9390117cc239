"""A router of a running lab: what forwards between its networks, and how to change it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from labctl.capture import counters
from labctl.errors import HostError, UsageError
from labctl.kinds import registry
from labctl.kinds.base import ForwarderKind, Option
from labctl.lab.forwarding import Forwarding
from labctl.network import features
from labctl.routers import namespace, programs
from labctl.sandbox import agent, codec, jsontext
from labctl.sandbox.base import ExecutionContext, Process
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import Result, last_lines
from labctl.topology import model

COMMAND_SECONDS = 30.0
START_SECONDS = 120.0
"""A dom0 whose guests boot meanwhile takes its time; this only catches the dead."""
LOOK_SECONDS = 0.02
OURS = "labctl."
"""What the modules of programs begin with that are in a dom0 too."""


class Router(Forwarding):
    """A router of a running lab."""

    def __init__(self, place: ExecutionContext, directory: Path, router: model.Router) -> None:
        """Hold a router in a place, of the lab in `directory`; `Lab.router` makes one."""
        self._place = place
        self.model = router
        self.name = router.name
        folder = directory / "routers"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._kind = folder / f"{router.name}.kind"
        self._options = folder / f"{router.name}.options"
        self._pid = folder / f"{router.name}.pid"
        self._out = place.directory / f"router-{router.name}.out"
        self._err = place.directory / f"router-{router.name}.err"

    @property
    def kind(self) -> str | None:
        """What forwards now; None while nothing does."""
        if not self._kind.exists():
            return None
        kind = self._kind.read_text()
        program = programs.noted(self._pid)
        if program and not self._place.runs(program.pid, program.module):
            return None
        return kind

    def run(self, argv: Sequence[str], *, timeout: float = COMMAND_SECONDS) -> Result:
        """Run a program in the router's network namespace."""
        words = ["nsenter", f"--net=/run/netns/{self.name}", "--", *argv]
        return self._place.agent().run(words, Deadline(timeout, f"{argv[0]} in {self.name}"))

    def set_kind(self, kind: str, options: Mapping[str, Option] | None = None) -> None:
        """Let this kind of forwarding take over; what forwarded before is ended first.

        Without `options` the topology's are taken, where it has this kind there. Raises
        `UsageError` for a kind that there is not, or options that it cannot take, `HostError` when
        its program does not start.
        """
        wanted = registry.forwarder(kind)
        if wanted.only_in_guests:
            raise UsageError(
                f"the kind {kind} is for guests, and {self.name} is a namespace",
                f"write a node with role: router and forwarder: {kind}",
            )
        if options is None:
            options = self.model.options if kind == self.model.kind else {}
        self._take_over(kind, options)

    def set_kernel_forwarding(self, on: bool) -> None:
        """Let the namespace's kernel forward, or not."""
        self._place.call(namespace.set_forwarding, self.model, on)

    def kernel_forwards(self) -> bool:
        """Tell whether the namespace's kernel forwards."""
        return self._place.call(namespace.forwarding, self.model)

    def set_outer_feature(self, feature: str, on: bool) -> None:
        """Turn a feature of the veths' ends at the bridges on, or off."""
        for interface in self.model.interfaces:
            self._place.call(features.change, interface.peer, {feature: on})

    def start_program(self, program: str | Path, *options: str) -> None:
        """Start a kind's program and wait until it forwards; see `labctl.kinds.base`.

        Raises `HostError` when it does not start.
        """
        if self.model.host and not str(program).startswith(OURS):
            raise HostError(
                f"the router program {program} is not in dom0 of {self.model.host}",
                "take a kind of labctl's own there, or put the router into the lab itself",
            )
        words = [*self._place.python, *([] if isinstance(program, Path) else ["-m"]), str(program)]
        words += ["--netns", self.name, *options]
        words += [interface.name for interface in self.model.interfaces]
        for file in (self._out, self._err):
            self._place.call(agent.remove, file)
        started = Process.start(
            self._place.agent(), words, stdout=self._out, stderr=self._err, detached=True
        )
        self._pid.write_text(f"{started.pid} {program}")
        deadline = Deadline(START_SECONDS, f"starting the router program of {self.name}")
        while "ready" not in self._said():
            if started.poll() is not None:
                said = last_lines(self._place.call(agent.read, self._err))
                raise HostError(f"the router program of {self.name} ended: {said}")
            deadline.pause(LOOK_SECONDS)

    def _said(self) -> str:
        """Return what the program has printed."""
        return self._place.call(agent.read, self._out)

    def stop(self) -> None:
        """Let nothing forward any more."""
        self._stop(
            registry.FORWARDERS.find(self._kind.read_text()) if self._kind.exists() else None
        )

    def _stop(self, kind: ForwarderKind | None) -> None:
        try:
            if kind:
                kind.stop(self)
        finally:
            self._clear()

    def _clear(self) -> None:
        """End all that kinds have had started here, whichever it was."""
        self.set_kernel_forwarding(False)
        self._kind.unlink(missing_ok=True)
        self._options.unlink(missing_ok=True)
        if program := programs.noted(self._pid):
            deadline = Deadline(START_SECONDS, f"ending the router program of {self.name}")
            while self._place.runs(program.pid, program.module):
                self._place.call(agent.kill, program.pid, signal.SIGTERM)
                deadline.pause(LOOK_SECONDS)
            self._pid.unlink()

    def counters(self) -> dict[str, int]:
        """Return the counters of what forwards: the program's, or the namespace's kernel's.

        Empty while nothing forwards. Raises `HostError` for what is none: in a dom0 anything may
        have written it.
        """
        kind = self.kind
        return {} if kind is None else registry.forwarder(kind).count(self)

    def kernel_counters(self) -> dict[str, int]:
        """Return the counters of the namespace's kernel, such as `IpOutNoRoutes`."""
        return counters.parse_counters(self.run(["sh", "-c", counters.COUNTERS_COMMAND]).stdout)

    def program_counters(self) -> dict[str, int]:
        """Return the counters of the kind's program, as it tells them."""
        program = programs.noted(self._pid)
        if program is None:
            raise HostError(f"no router program was started for {self.name}")
        told = self._said()
        self._place.call(agent.kill, program.pid, signal.SIGUSR1)
        deadline = Deadline(START_SECONDS, f"asking the router program of {self.name}")
        while not (news := self._said()[len(told) :]).endswith("\n"):
            deadline.pause(LOOK_SECONDS)
        return _counters(news.splitlines()[-1], self.name)

    @contextlib.contextmanager
    def as_kind(self, kind: str, options: Mapping[str, Option] | None = None) -> Iterator[None]:
        """Forward by another kind for the length of a `with` block; see `set_kind`."""
        before, told = self.kind, self.options
        self.set_kind(kind, options)
        try:
            yield
        finally:
            if before:
                self.set_kind(before, told)
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
        said = last_lines(line)[:100]
        raise HostError(f"the router program of {name} told no counters: {said}") from wrong
    return counted
