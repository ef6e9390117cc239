"""Writing a run's directory so that an interrupted run can never be taken for a finished one.

While a run goes on, its directory holds the file `running`, locked by the recorder's process. The
kernel drops the lock with the process, whatever ended it. `result.json` appears complete, by a
rename, as the last step; a directory without it is a run that goes on (marker locked) or one that
was interrupted (marker free).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from labctl.errors import LabctlError
from labctl.results import junit
from labctl.results.model import Run
from labctl.sandbox import atomic, lock, owned
from labctl.sandbox.trusted import check_private

SCHEMA_VERSION = 1
RESULT = "result.json"
JUNIT = "junit.xml"
TOPOLOGY = "topology.json"
"""The lab's topology as it was resolved, see `labctl.topology.serialize`."""
MARKER = "running"
INTERRUPTED = "interrupted: what follows from the rest is not known"
"""The note in the record of a run that was told to end before it had tried everything."""
_HINT = "name a folder you can write to with --results DIR or LABCTL_RESULTS"


def results_root(root: Path | None = None) -> Path:
    """Return the folder of all runs: `root`, else LABCTL_RESULTS, else the XDG state folder.

    Raises `LabctlError` where there is none, or others can write to the last.
    """
    if root is not None:
        return root
    if named := os.environ.get("LABCTL_RESULTS"):
        return Path(named)
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # the XDG specification says to ignore relative paths
        try:
            state = Path.home() / ".local" / "state"
        except RuntimeError:
            raise LabctlError("there is no home folder to keep results in", _HINT) from None
    return check_private(state / "labctl", "XDG_STATE_HOME") / "results"


def file_stem(arm: str) -> str:
    """Return an arm's name as the part of a file's; `raw/ipv4` and `raw ipv4` come to the same."""
    return arm.replace("/", "-").replace(" ", "-")


def capture_name(arm: str) -> str:
    """Return the name of the file in `captures` that holds what was seen in an arm."""
    return f"{file_stem(arm)}.pcapng"


def numbered(arm: str, taken: Iterable[str]) -> str:
    """Return a name for an arm, `try #2` where the files of `try` are those of an arm in `taken`.

    Else one arm's capture would overwrite another's, and a difference could not tell them apart.
    """
    stems = {file_stem(one) for one in taken}
    name, number = arm, 1
    while file_stem(name) in stems:
        number += 1
        name = f"{arm} #{number}"
    return name


class Recorder:
    """The directory of one run while it goes on."""

    def __init__(self, path: Path, experiment: str, started: str, marker: IO[str]) -> None:
        """Use `create` instead."""
        self.path = path
        self.experiment = experiment
        self.started = started
        """ISO 8601, UTC: what `Run.started` should say."""
        self._marker = marker

    @classmethod
    def create(cls, experiment: str, root: Path | None = None) -> Recorder:
        """Make the directory `<UTC time>-<experiment>-<4 hex>` and mark it as running.

        Raises `LabctlError` where it cannot be written.
        """
        now = datetime.now(UTC)
        started = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        stamp = f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z"
        folder = results_root(root)
        try:
            owned.make_folders(folder)
            path = _new_directory(folder, f"{stamp}-{_slug(experiment)}")
            marker = _new_marker(path / MARKER)
            json.dump({"experiment": experiment, "started": started, "pid": os.getpid()}, marker)
            marker.flush()
            recorder = cls(path, experiment, started, marker)
            recorder.captures.mkdir()
            recorder.console.mkdir()
        except OSError as error:
            raise LabctlError(f"cannot record in {folder}: {error.strerror}", _HINT) from error
        return recorder

    @property
    def id(self) -> str:
        """The run's id: the name of its directory."""
        return self.path.name

    @property
    def captures(self) -> Path:
        """Folder for the run's pcapng files."""
        return self.path / "captures"

    @property
    def console(self) -> Path:
        """Folder for the guests' console logs."""
        return self.path / "console"

    def finish(self, run: Run) -> None:
        """Write `junit.xml` and then `result.json`; from now on the run is finished.

        Raises `ValueError` when `run` has another id or this recorder is closed, `LabctlError`
        where it cannot be written.
        """
        if run.id != self.id or self._marker.closed:
            raise ValueError(f"this recorder is not recording {run.id}")
        record = {"schema_version": SCHEMA_VERSION, **run.to_json()}
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        try:
            _write_whole(self.path / JUNIT, junit.render(run))
            _write_whole(self.path / RESULT, text.encode())
            (self.path / MARKER).unlink()
        except OSError as error:
            message = f"cannot record in {self.path}: {error.strerror}"
            raise LabctlError(message, _HINT) from error
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the directory; without `finish` before, the run is an interrupted one."""
        self._marker.close()

    def __enter__(self) -> Self:
        """Return itself; leaving the `with` block closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _slug(experiment: str) -> str:
    """Return `experiment` as part of a file name: a user's file may have any name."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", experiment).strip("-")[:60] or "experiment"


def _new_directory(folder: Path, stem: str) -> Path:
    while True:
        path = folder / f"{stem}-{secrets.token_hex(2)}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path


def _new_marker(path: Path) -> IO[str]:
    """Make the marker and lock it.

    For its owner alone: whoever may open it could hold its lock, and so let us wait for ever, or a
    run that was killed look as if it went on.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    marker = os.fdopen(os.open(path, flags, lock.MODE), "w", encoding="utf-8")
    fcntl.flock(marker, fcntl.LOCK_EX)
    return marker


def _write_whole(path: Path, data: bytes) -> None:
    """Write `path` so that it is there whole or not at all, also after a power cut."""
    atomic.write(path, data, atomic.public(), sync=True)
