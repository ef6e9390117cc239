"""The engines of a matrix: this machine, or others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from labctl.jobs.local import HERE, Local, cores
from labctl.jobs.model import Engine, Job, Place
from labctl.lab import memory
from labctl.matrix import cluster
from labctl.matrix.cells import Planned
from labctl.matrix.cluster import Keys
from labctl.matrix.run import RESULTS, MakeEngine, Tell


class _Here(Local):
    """Processes on this machine, whose runs are recorded in the folders of their tries."""

    def __init__(self, place: Place, folder: Callable[[Job], Path]) -> None:
        super().__init__(place, self._remember)
        self._new_folder = folder
        self._folders: dict[str, Path] = {}

    def _remember(self, job: Job) -> Path:
        return self._folders[job.name]

    def start(self, job: Job, place: str) -> None:
        """See `Engine`."""
        folder = self._folders[job.name] = self._new_folder(job)
        words = (*job.words, "--results", str(folder / RESULTS), "--end-with-input")
        super().start(replace(job, words=words), place)


@contextlib.contextmanager
def local(folder: Callable[[Job], Path]) -> Iterator[Engine]:
    """Give the engine of this machine: all its cores, and the memory that is free now."""
    yield _Here(Place(HERE, cores(), memory.free()), folder)


@dataclass(frozen=True)
class Elsewhere:
    """Other machines, as the user names them."""

    hosts: Sequence[str] = ()
    """By SSH."""
    program: str = "labctl"
    """What labctl is called there."""
    config: Path | None = None
    """The configuration of ssh(1), where that is not the user's own."""
    scheduler: str = ""
    """The address of a dask scheduler."""
    keys: Keys = field(default_factory=Keys)
    """Of TLS, for the scheduler."""
    mixed: bool = False
    """Whether machines with other versions are taken, too."""


def choose(where: Elsewhere, planned: Sequence[Planned], tell: Tell) -> MakeEngine:
    """Return what makes the engine that was asked for; this machine's, where none was.

    Raises `UsageError` for cells that no other machine can run.
    """
    if where.scheduler:
        cluster.check_address(where.scheduler, where.keys)
    elif not where.hosts:
        return local
    portable = {one.cell.key: one.portable() for one in planned}

    def carry(job: Job) -> Job:
        words, files = portable[job.name]
        return replace(job, words=words, files=files)

    @contextlib.contextmanager
    def make(folder: Callable[[Job], Path]) -> Iterator[Engine]:
        from labctl.matrix import ssh, worker  # here: who stays on this machine needs neither

        ours = worker.facts()
        if where.scheduler:
            yield cluster.Dask(
                where.scheduler, where.keys, folder, carry, ours, mixed=where.mixed, tell=tell
            )
            return
        yield ssh.Ssh(
            where.hosts, ssh.Way(where.program, where.config), folder, carry, ours,
            mixed=where.mixed, tell=tell,
        )  # fmt: skip

    return make
