"""What a running lab remembers in its directory, and finding labs again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from labctl.backends.state import State
from labctl.errors import LabctlError, UsageError
from labctl.lab import orphans
from labctl.sandbox import (
    atomic,
    codec,
    documents,
    host,
    lock,
    namespaces,
    owned,
    paths,
    scratch,
    trusted,
)
from labctl.sandbox.base import Sandbox
from labctl.sandbox.deadline import Deadline

STATE = "lab.state"
VERSION = 1
"""Of `State` in a file: raised when a file of before could not be read any more. A new field with a
default needs no new version: labs of before have not got it."""
CREATE_SECONDS = 60.0
SOCKET_LIMIT = 107
"""Octets in the path of a UNIX socket (unix(7), sun_path less its NUL)."""


class NotUpError(LabctlError):
    """A lab has no state yet: it is coming up."""


def directory(name: str) -> Path:
    """Return where the lab of this name keeps its things while it runs.

    Raises `UsageError` when sockets in it would have too long a path.
    """
    path = paths.runtime() / name
    longest = path / "embed/lib/qemu/domain-99-" / ("n" * 20) / "monitor.sock"
    if len(str(longest)) > SOCKET_LIMIT:
        raise UsageError(
            f"the path {path} is too long for the sockets of a lab",
            "set LABCTL_RUNTIME_DIR to a short path, or give the lab a shorter name",
        )
    return path


def save(folder: Path, state: State) -> None:
    """Write a lab's state whole or not at all."""
    atomic.write(folder / STATE, documents.dumps(state, State, STATE, VERSION))


def load(folder: Path) -> State:
    """Read a lab's state.

    Raises `NotUpError` when there is none yet, `LabctlError` for one that this labctl does not
    understand, or that somebody else could have written.
    """
    try:
        data = trusted.read_in(folder / STATE)
        state: State = documents.loads(data, State, STATE, VERSION)
    except FileNotFoundError:
        raise NotUpError(f"lab {folder.name} is not up yet", "wait for its up to end") from None
    except (codec.CodecError, OSError) as reason:
        raise LabctlError(
            f"the state of lab {folder.name} cannot be read: {reason}",
            f"it was made by another labctl; run: labctl down {folder.name}",
        ) from None
    return state


def known() -> list[Path]:
    """List the directories of labs, running or left behind by a killed PID 1."""
    marks = (namespaces.IDENTITY, host.MARKER)
    folders = [folder for folder in paths.runtimes() if paths.is_ours(folder)]
    return [
        entry
        for folder in folders
        for entry in sorted(folder.iterdir())
        if any((entry / mark).exists() for mark in marks) and owned.is_made(entry)
    ]


@contextlib.contextmanager
def creating(folder: Path) -> Iterator[None]:
    """Reserve a lab's directory while its sandbox is made in the `with` block.

    One labctl at a time, so that nobody takes for a leftover what somebody else is just making.
    What killed sandboxes, probes and doctors have left behind is removed here, and only what bears
    labctl's mark. Raises `UsageError` when a lab of this name is up or something else has its
    place, `DeadlineError` when another labctl does not let go.
    """
    if orphans.named(folder.name):
        raise UsageError(
            f"a lab {folder.name} runs, but its folder has gone",
            f"take it down: labctl down {folder.name}; or choose another name: --name NAME",
        )
    deadline = Deadline(CREATE_SECONDS, "waiting for another labctl to make its sandbox")
    with lock.held(paths.runtime() / orphans.MAKING, deadline):
        if os.path.lexists(folder) and not owned.may_be_made(folder):
            raise UsageError(
                f"{folder} is there already, and labctl did not make it",
                "choose another name: --name NAME; or set LABCTL_RUNTIME_DIR to another folder",
            )
        if alive(folder):
            if not (folder / STATE).exists():
                raise UsageError(
                    f"another labctl is bringing lab {folder.name} up just now",
                    "wait for it: labctl status; or choose another name: --name NAME",
                )
            raise UsageError(
                f"lab {folder.name} is up already",
                f"take it down: labctl down {folder.name}; or choose another name: --name NAME",
            )
        for entry in paths.runtime().iterdir():
            hidden = entry.name.startswith(".")
            if not hidden and owned.is_made(entry) and not alive(entry):
                with contextlib.suppress(LabctlError):  # it runs all the same; not ours to tell of
                    namespaces.end(entry)
        scratch.sweep()
        yield


def attach(folder: Path) -> Sandbox:
    """Return the running sandbox of a lab's directory; raises `LabctlError` when there is none."""
    try:
        if (folder / host.MARKER).exists():
            return host.Host.attach(folder)
        return namespaces.Namespaces.attach(folder)
    except (OSError, ValueError, TypeError):
        raise LabctlError(f"there is no lab in {folder}", "run: labctl status") from None


def alive(folder: Path) -> bool:
    """Whether the sandbox of a lab's directory runs."""
    try:
        attach(folder)
    except LabctlError:
        return False
    return True


def find(name: str | None) -> Path:
    """Return the directory of the lab of this name, or of the only one that runs.

    Raises `UsageError` when there is none, or several and no name.
    """
    folders = [folder for folder in known() if alive(folder)]
    names = ", ".join(folder.name for folder in folders)
    if name not in {None, *(folder.name for folder in folders)} or not folders:
        for lost in orphans.find():
            if name in (None, lost.name):
                raise UsageError(f"lab {lost.name} is orphaned: {lost.problem}", lost.hint)
    if name is None:
        if len(folders) == 1:
            return folders[0]
        if not folders:
            raise UsageError("no lab is up", "bring one up: labctl up bridged.yaml")
        raise UsageError(f"several labs are up: {names}", "name one with --lab NAME")
    for folder in folders:
        if folder.name == name:
            return folder
    hint = f"these are up: {names}" if names else "bring one up: labctl up bridged.yaml"
    raise UsageError(f"no lab {name} is up", hint)
