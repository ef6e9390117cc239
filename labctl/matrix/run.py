"""Running a matrix: what has a result is not run again, and each try leaves a record of its own.

The files of attempts are the truth; a file is written once, after the run that it names has its
place. So whatever ends this process, a cell has a result or is run again, and none is counted
twice.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labctl.errors import DeadlineError, HostError, LabctlError, UsageError, clean
from labctl.jobs.model import Ended, Engine, How, Job, Place
from labctl.jobs.schedule import Scheduler
from labctl.matrix.cells import Planned
from labctl.matrix.progress import Progress, expectations
from labctl.results import archive, matrix, store
from labctl.results.matrix import RUNS, Attempt, Cell, Matrix
from labctl.results.model import Verdict
from labctl.results.recorder import INTERRUPTED
from labctl.sandbox import lock, owned
from labctl.sandbox.deadline import Deadline
from labctl.version import __version__

RESULTS = "results"
"""In the folder of a try on this machine: where its run is recorded."""
ARCHIVE = "run.tar"
"""In the folder of a try elsewhere: its run, packed."""
GROUP = "group"
"""In the same folder: the versions that it was run with, where they are others."""
_LOCK = ".lock"
_LONGEST_REASON = 1000

Tell = Callable[[dict[str, Any]], None]
"""Told of what happens, as plain data: `event`, and what belongs to it."""
MakeEngine = Callable[[Callable[[Job], Path]], contextlib.AbstractContextManager[Engine]]
"""Makes the engine of a function that returns a new folder for a try."""


@dataclass(frozen=True)
class Wanted:
    """What is to be run of a matrix, and where it is kept."""

    name: str
    cells: Sequence[Planned]
    folder: Path
    shard: str = ""
    chosen: Sequence[Planned] = ()
    """The cells of the shard."""
    again: Collection[str] = ()
    """Verdicts of cells that are to be run again; `all` for each."""
    limit: int | None = None

    @property
    def ours(self) -> Sequence[Planned]:
        """The cells that are to have a result."""
        return self.chosen if self.shard else self.cells


def unfinished(wanted: Wanted, attempts: Sequence[Attempt]) -> list[Planned]:
    """Return the cells that have no result, or have changed, or are to be run again."""
    made = _plan(wanted, attempts)
    last = {one.cell.key: one.last for one in made.outcomes}
    found = []
    for one in wanted.ours:
        known = last[one.cell.key]
        if known and known.told and not {"all", str(known.verdict)} & set(wanted.again):
            continue
        found.append(one)
    return found


def run(wanted: Wanted, engine: MakeEngine, tell: Tell) -> Matrix:
    """Run what has no result yet, and return the whole; its pages are for who has them.

    Raises `UsageError` where the folder is in use or another matrix's, `LabctlError` where it
    cannot be written. When it is interrupted all that runs is ended, here and elsewhere, and is
    recorded as such.
    """
    folder = wanted.folder
    with held(folder):
        attempts = matrix.read_attempts(folder)
        wants = unfinished(wanted, attempts)
        matrix.write(folder, _plan(wanted, attempts))
        tell({
            "event": "plan", "matrix": wanted.name, "folder": str(folder), "shard": wanted.shard,
            "cells": len(wanted.ours), "known": len(wanted.ours) - len(wants),
        })  # fmt: skip
        try:
            if wants:
                with owned.temporary(folder, ".work-") as work:
                    _Session(wanted, attempts, work, tell).run(wants, engine)
        finally:
            made = _plan(wanted, matrix.read_attempts(folder))
            matrix.write(folder, made)
    return made


def _plan(wanted: Wanted, attempts: Sequence[Attempt]) -> Matrix:
    return matrix.planned(
        wanted.name,
        [one.cell for one in wanted.cells],
        attempts,
        shard=wanted.shard,
        chosen=tuple(one.cell.key for one in wanted.chosen) if wanted.shard else (),
        labctl=__version__,
    )


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a matrix's folder, which is made; nobody else runs this matrix meanwhile."""
    if folder.is_dir() and any(folder.iterdir()) and not matrix.holds(folder):
        names = {one.name for one in folder.iterdir()}
        if names - {_LOCK, matrix.ATTEMPTS, RUNS}:
            raise UsageError(
                f"{folder} is there, and holds no matrix", "name another: --output DIR"
            )
    try:
        owned.make_folders(folder / RUNS)
        owned.make_folders(folder / matrix.ATTEMPTS)
        with lock.held(folder / _LOCK, Deadline(1.0, "waiting for another labctl matrix")):
            yield
    except DeadlineError as error:
        raise HostError(error.message, "wait for its end, or name another: --output DIR") from None
    except OSError as error:
        raise LabctlError(
            f"{folder} cannot be used: {error.strerror}", "name another folder: --output DIR"
        ) from error


class _Session:
    """One go at the cells that have no result."""

    def __init__(self, wanted: Wanted, attempts: Sequence[Attempt], work: Path, tell: Tell) -> None:
        self._folder, self._work, self._tell, self._limit = wanted.folder, work, tell, wanted.limit
        self._attempts = list(attempts)
        self._numbers: dict[str, int] = {}
        for one in attempts:
            self._numbers[one.cell] = max(one.number, self._numbers.get(one.cell, 0))
        self._cells: dict[str, Cell] = {}
        self._started: dict[str, tuple[str, float]] = {}
        self._places: dict[str, Path] = {}
        self._progress = Progress({})

    def run(self, wants: Sequence[Planned], make: MakeEngine) -> None:
        expected = expectations(wants, self._attempts)
        self._cells = {one.cell.key: one.cell for one in wants}
        self._progress = Progress(expected)
        jobs = [one.job(expected[one.cell.key]) for one in wants]
        with make(self._new_folder) as engine:
            Scheduler(engine, on_start=self._start, on_end=self._end, limit=self._limit).run(jobs)

    def _new_folder(self, job: Job) -> Path:
        """Return a folder for a try, which goes with all that is in it when this is over."""
        folder = self._work / f"{job.name}-{self._numbers.get(job.name, 0) + 1}"
        folder.mkdir()
        self._places[job.name] = folder
        return folder

    def _start(self, job: Job, place: Place) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._started[job.name] = (now, self._progress.clock())
        self._progress.start(job.name)
        self._tell({
            "event": "start", "cell": job.name, "name": self._cells[job.name].name,
            "attempt": self._numbers.get(job.name, 0) + 1, "place": place.name,
        })  # fmt: skip

    def _end(self, ended: Ended, again: bool) -> None:
        cell = self._cells[ended.job.name]
        now, begun = self._started.pop(cell.key, ("", self._progress.clock()))
        number = self._numbers.get(cell.key, 0) + 1
        self._numbers[cell.key] = number
        attempt = Attempt(
            cell.key, cell.digest, number, ended.how.value, Verdict.ERROR,
            reason=clean(ended.reason)[:_LONGEST_REASON], place=ended.place, started=now,
            seconds=self._progress.clock() - begun,
        )  # fmt: skip
        place = self._places.pop(cell.key, None)
        if place is not None:
            attempt = self._collect(attempt, place)
            shutil.rmtree(place, ignore_errors=True)  # below a folder that bears our mark
        matrix.write_attempt(self._folder, attempt)
        self._progress.end(cell.key, again=again)
        self._tell({
            "event": "end", "cell": cell.key, "name": cell.name, "attempt": number,
            "how": attempt.how, "verdict": str(attempt.verdict), "reason": attempt.reason,
            "run": attempt.run, "place": attempt.place, "seconds": round(attempt.seconds, 3),
            "again": again, "done": self._progress.done, "total": self._progress.total,
            "seconds_left": self._progress.left(),
        })  # fmt: skip

    def _collect(self, attempt: Attempt, place: Path) -> Attempt:
        """Put the run of a try in its place, and return the attempt with what it came to."""
        try:
            found = self._bring_home(place)
        except LabctlError as error:
            return replace(attempt, reason=error.message[:_LONGEST_REASON])
        if found is None or found.run is None:
            reason = attempt.reason or "its process ended without a record"
            return replace(attempt, reason=reason)
        group = _group(place)
        attempt = replace(attempt, run=found.run.id, group=group)
        ended = attempt.how == How.ENDED.value
        if not ended or INTERRUPTED in found.run.notes:
            # What it had until then is no verdict of the whole.
            if ended:
                return replace(attempt, reason="its run was interrupted", how="stopped")
            return attempt
        return replace(attempt, verdict=found.run.verdict, reason="")

    def _bring_home(self, place: Path) -> store.Summary | None:
        runs = self._folder / RUNS
        packed = place / ARCHIVE
        if packed.is_file():
            name, _ = archive.bring_in(packed, runs)
            return store.at(runs / name, name)
        recorded = store.list_runs(place / RESULTS)
        if not recorded:
            return None
        path = recorded[0].path
        try:
            path.rename(runs / path.name)
        except OSError as error:
            raise LabctlError(f"{path} cannot be moved to {runs}: {error.strerror}") from error
        return store.at(runs / path.name)


def _group(place: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return clean((place / GROUP).read_text()[:500])
    return ""
