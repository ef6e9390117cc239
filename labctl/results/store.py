"""Reading records back: what is there, in which state, and one run by its name."""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import json
import os
import re
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from labctl.errors import LabctlError, UsageError
from labctl.results.model import Run, Verdict
from labctl.results.recorder import (
    INTERRUPTED,
    MARKER,
    RESULT,
    SCHEMA_VERSION,
    results_root,
)
from labctl.sandbox import lock

_ID = re.compile(r"(\d{8}T\d{6}\.\d{3}Z)-(.+)-[0-9a-f]{4}")
_LONGEST = 200
_LAST = re.compile(r"last(?:~(\d+))?")


class RunState(StrEnum):
    """What a run's directory tells about it."""

    FINISHED = "finished"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    """Its process ended before it wrote a result, or was told to and wrote what it had."""
    UNREADABLE = "unreadable"
    """There is a result, but it cannot be used; `Summary.problem` says why."""


@dataclass(frozen=True)
class Summary:
    """One line about a run."""

    id: str
    path: Path
    """The run's directory."""
    state: RunState
    experiment: str
    started: str
    """ISO 8601, UTC."""
    run: Run | None = None
    """The record, where there is one: of an interrupted run as far as it got."""
    problem: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """The recorded verdict; None where there is none."""
        return self.run.verdict if self.run else None

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain data, ready for `json.dumps`."""
        return {
            "id": self.id,
            "path": str(self.path),
            "state": self.state.value,
            "experiment": self.experiment,
            "started": self.started,
            "verdict": self.verdict.value if self.verdict else None,
            "problem": self.problem,
        }


def list_runs(root: Path | None = None) -> list[Summary]:
    """Return every run under `root`, the newest first; one bad record does not hide the others."""
    return [_summary(path) for path in _directories(results_root(root))]


def ids(root: Path | None = None) -> list[str]:
    """Return the ids of all runs under `root`, the oldest first; nothing of them is read."""
    return sorted(path.name for path in _directories(results_root(root)))


def at(folder: Path, name: str = "") -> Summary:
    """Return the run in a folder of any name, whoever recorded it.

    It is to be the run called `name`, where that is given.
    """
    return _summary(folder, name)


def is_id(name: str) -> bool:
    """Tell whether a run may be called so."""
    return len(name) <= _LONGEST and bool(_ID.fullmatch(name)) and "/" not in name


def _holds_run(folder: Path) -> bool:
    return any((folder / one).exists() for one in (RESULT, MARKER))


def _folder(name: str) -> Path | None:
    """Return the folder of a run that a word names; None for an id, or a part of one.

    Raises `UsageError` for a path to a folder without one.
    """
    path = Path(name)
    if path.name == RESULT:
        path = path.parent
    try:
        if not path.is_dir():
            return None
        if _holds_run(path):
            return path.resolve()
    except (OSError, ValueError):  # too long a name, or one with a zero octet
        return None
    if "/" in name:
        raise UsageError(f"{name} holds no run", f"name a folder with a {RESULT}")
    return None


def find(name: str, root: Path | None = None) -> Summary:
    """Return the run called `name`: an id, a part of one, `last`, or `last~N` (N before it).

    A run's folder may be named in its place, wherever it lies. Raises `UsageError`, with the
    nearest id, where no run or more than one is meant.
    """
    if there := _folder(name):
        return at(there)
    folder = results_root(root)
    paths = _directories(folder)
    if not paths:
        raise UsageError(f"there are no results in {folder}", "run one: labctl experiment NAME")
    if last := _LAST.fullmatch(name):
        back = int(last[1] or 0)
        if back >= len(paths):
            raise UsageError(f"there is no {name}: only {len(paths)} recorded", "labctl results")
        return _summary(paths[back])
    named = {path.name: path for path in paths}
    if name in named:
        return _summary(named[name])
    found = [key for key in named if key.startswith(name)] or [key for key in named if name in key]
    if name and len(found) == 1:
        return _summary(named[found[0]])
    if name and found:
        raise UsageError(f"{name} could be {len(found)} runs", f"such as {found[0]}")
    near = difflib.get_close_matches(name, named, n=1, cutoff=0.3)
    hint = f"the nearest is {near[0]}" if near else "list them: labctl results"
    raise UsageError(f"there is no run called {name!r} in {folder}", hint)


def load(name: str, root: Path | None = None) -> Run:
    """Return the record of the run called `name`, as `find` understands it.

    Raises `UsageError` where no single run is meant, `LabctlError` where the run has no result or
    an unusable one.
    """
    summary = find(name, root)
    if summary.run:
        return summary.run
    hint = "list the others: labctl results"
    if summary.state is RunState.UNREADABLE:
        raise LabctlError(f"{summary.path / RESULT}: {summary.problem}", hint)
    told = "is still running" if summary.state is RunState.RUNNING else "was interrupted"
    raise LabctlError(f"{summary.id} {told}: it has no result", hint)


def before_last(root: Path | None = None) -> str:
    """Return the id of the run before the last that is of the same experiment and has a result.

    Raises `UsageError` where there is none.
    """
    last, *earlier = list_runs(root) or [find("last", root)]
    for one in earlier:
        if one.experiment == last.experiment and one.run:
            return one.id
    raise UsageError(
        f"no run of {last.experiment} is before {last.id}", "name two runs: labctl results"
    )


def _directories(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if _ID.fullmatch(path.name) and path.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(
            f"cannot read {folder}: {error.strerror}", "name the folder: --results DIR"
        ) from error
    return sorted(found, reverse=True)  # the ids begin with the time


def _summary(path: Path, name: str | None = None) -> Summary:
    """Read the run in a folder, whose name it is to have, or `name`; if that is empty, any."""
    wanted = path.name if name is None else name
    parts = _ID.fullmatch(path.name)
    when, experiment = (parts[1], parts[2]) if parts else ("", path.name)
    started = re.sub(r"(\d{4})(\d\d)(\d\dT\d\d)(\d\d)(.*)", r"\1-\2-\3:\4:\5", when)
    try:
        run = _read(path / RESULT)
        if wanted and run.id != wanted:
            raise ValueError(f"holds the record of {run.id}")
    except FileNotFoundError:
        state = RunState.RUNNING if _is_locked(path / MARKER) else RunState.INTERRUPTED
        return Summary(path.name, path, state, experiment, started)
    except (OSError, ValueError, RecursionError) as error:
        problem = _one_line(error)
        return Summary(path.name, path, RunState.UNREADABLE, experiment, started, None, problem)
    state = RunState.INTERRUPTED if INTERRUPTED in run.notes else RunState.FINISHED
    return Summary(run.id, path, state, run.experiment, run.started, run)


def _read(file: Path) -> Run:
    with open_file(file) as text:
        data = json.load(text)
    version = data.pop("schema_version", None) if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema_version is {version}, this labctl reads {SCHEMA_VERSION}")
    return Run.from_json(data)


def open_file(path: Path) -> BinaryIO:
    """Open a file to read it; raises `OSError` for what is none: a pipe would have us wait."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return os.fdopen(handle, "rb")


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
    if isinstance(error, OSError):
        return error.strerror or str(error)
    kind = "not JSON: " if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else ""
    return f"{kind}{error}".splitlines()[0]


def _is_locked(marker: Path) -> bool:
    """Tell whether a live process holds `marker` (a shared lock is refused while it does)."""
    try:
        with open_file(marker) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except PermissionError:  # another user's, which only the kernel tells of
        with contextlib.suppress(OSError):
            return bool(lock.holder(marker.stat()))
        return False
    except OSError:
        return False
    return False
