"""The programs that a lab's links need, such as a switch in user space: started, seen, ended.

Those of a segment share a folder below the lab's: all that they can write to. What one says is kept
beside that, and a note whose process it is, which it writes itself before it becomes the program
(`confined`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from labctl.errors import HostError
from labctl.kinds.base import LinkProgram
from labctl.network import confined
from labctl.sandbox import process
from labctl.sandbox.base import Process, Sandbox
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import last_lines
from labctl.topology.model import Topology

FOLDER = "links"
"""Below a lab's directory. PID 1 of its sandbox keeps the logs there short."""
START_SECONDS = 60.0
LOOK_SECONDS = 0.02
_SAID = 1 << 16
"""Bytes of what a program said, at its beginning or its end, that are looked through."""


@dataclass(frozen=True)
class OfNetwork:
    """A program, and the network and the segment whose links it is for."""

    network: str
    segment: str
    program: LinkProgram

    @property
    def what(self) -> str:
        """What messages call it."""
        return f"the program {self.program.name} of the network {self.network}"


def of(topology: Topology) -> list[OfNetwork]:
    """Return the programs of a topology, in the order in which they are started."""
    return [
        OfNetwork(network.name, segment.name, program)
        for network in topology.outer_networks()
        for segment in network.segments
        for program in segment.plan.programs
    ]


def start_all(sandbox: Sandbox, topology: Topology) -> None:
    """Start the programs of a topology whose links are there, one when that before it is ready.

    Raises `HostError` for one that cannot be started or ends, `DeadlineError` where one is not
    ready in time.
    """
    for one in of(topology):
        started = _start(sandbox, one)
        deadline = Deadline(START_SECONDS, f"starting {one.what}")
        files = _Files.of(sandbox.directory, one)
        while one.program.ready not in files.begun():
            if started.poll() is not None:
                said = last_lines(files.ended()) or "it said nothing"
                raise HostError(f"{one.what} ended: {said}")
            deadline.pause(LOOK_SECONDS)


def state(sandbox: Sandbox, one: OfNetwork) -> str:
    """Return whether a program is `running`, `stopped` (by a signal) or has `ended`."""
    noted = confined.noted(_Files.of(sandbox.directory, one).note)
    if noted is None or not noted.is_it(sandbox.process(noted.pid)):
        return "ended"
    return "stopped" if sandbox.is_stopped(noted.pid) else "running"


def check(sandbox: Sandbox, topology: Topology, lab: str) -> None:
    """Raise `HostError` for a program that does not run: what passed its links proves nothing."""
    for one in of(topology):
        found = state(sandbox, one)
        if found == "running":
            continue
        if found == "stopped":
            raise HostError(f"{one.what} is stopped by a signal", "let it go on: kill -CONT")
        said = last_lines(_Files.of(sandbox.directory, one).ended(), 1)
        what = f"{one.what} has ended; it said last: {said}" if said else f"{one.what} has ended"
        raise HostError(what, f"take the lab down, and bring it up again: labctl down {lab}")


def end_all(directory: Path) -> None:
    """End the programs of a lab that lives in the host's own namespaces, by what is left of it."""
    for file in (directory / FOLDER).glob("*.pid"):
        if noted := confined.noted(file):
            confined.end(noted)


@dataclass(frozen=True)
class _Files:
    home: Path
    """Where it works, and all that it can write to."""
    view: Path
    """An empty folder for what it sees of the files to be built on."""
    note: Path
    out: Path
    err: Path

    @classmethod
    def of(cls, directory: Path, one: OfNetwork) -> _Files:
        folder, name = directory / FOLDER, one.program.name
        return cls(
            folder / f"{one.network}.{one.segment}",
            folder / f"{name}.view",
            folder / f"{name}.pid",
            folder / f"{name}.log",
            folder / f"{name}.errors.log",
        )

    def begun(self) -> str:
        """Return what it said first."""
        return "".join(_part(file, 0) for file in (self.out, self.err))

    def ended(self) -> str:
        """Return what it said last."""
        return "".join(_part(file, -_SAID) for file in (self.out, self.err))


def _part(file: Path, at: int) -> str:
    """Return what stands in a file from a place on, counted from its end where it is negative."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        opened.seek(max(0, at + size) if at < 0 else at)
        return opened.read(_SAID).decode(errors="replace")
    return ""


def _start(sandbox: Sandbox, one: OfNetwork) -> Process:
    program = one.program
    files = _Files.of(sandbox.directory, one)
    for folder in (files.home.parent, files.home, files.view):
        folder.mkdir(mode=0o700, exist_ok=True)
    environment, read = dict(program.environment), [Path(path) for path in program.reads]
    if program.is_python:
        root = folder_of(one)
        read += [root, Path(__file__).parents[1], Path(sys.prefix), Path(sys.base_prefix)]
        environment["PYTHONPATH"] = str(root)
        argv = (sys.executable, "-P", "-m", program.program, *program.options)
    else:
        found = shutil.which(program.program, path=process.ENVIRONMENT["PATH"])
        if found is None:
            raise HostError(f"{program.program} is not installed, which {one.what} is")
        argv = (found, *program.options)
    launch = confined.Launch(
        files.note, files.home, files.view, tuple(read), argv, environment, program.netns
    )
    words = [*sandbox.python, "-m", confined.__name__, launch.text()]
    return Process.start(sandbox.agent(), words, stdout=files.out, stderr=files.err, detached=True)


def folder_of(one: OfNetwork) -> Path:
    """Return the folder that Python finds a program's module in; raises `HostError` for none."""
    module = one.program.program
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise HostError(
            f"Python has no module {module}, which {one.what} is",
            "install the package that brings it into labctl's environment",
        )
    above = module.count(".") + (1 if spec.submodule_search_locations else 0)
    return Path(spec.origin).resolve().parents[above]


def states(sandbox: Sandbox, topology: Topology) -> Iterator[tuple[OfNetwork, str]]:
    """Yield every program of a topology with its state."""
    for one in of(topology):
        yield one, state(sandbox, one)
