"""Where saved labs lie: each in a folder of its name, which appears by one rename."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from labctl.backends.state import State
from labctl.errors import HostError, LabctlError, UsageError, host_error, nearest
from labctl.sandbox import atomic, codec, documents, lock, owned, paths, trusted
from labctl.sandbox.deadline import Deadline

NOTES = "lab.json"
VERSION = 1
"""Of the notes."""
LOCK = ".lock"
LOCK_SECONDS = 600.0
_MAKING = ".making-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True)
class SavedGuest:
    """A guest that goes on from files."""

    cloned: bool
    """Whether it was a clone: its machine is another than that of one that booted."""
    shape: list[str]
    """What must be the same where it goes on (`labctl.guests.saved_lab.shape`)."""
    state: str
    """The file of its state."""


@dataclass(frozen=True)
class Save:
    """A saved lab."""

    name: str
    saved: str
    """When, ISO 8601, UTC."""
    state: State
    """Of the lab, with the topology and the impairments that it had."""
    guests: dict[str, SavedGuest]
    digests: dict[str, str] = field(default_factory=dict)
    """Of each file, as `labctl.guests.saved` makes them."""
    notes: list[str] = field(default_factory=list)
    """What could not be saved, a line each."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return place(self.name)

    @property
    def size(self) -> int:
        """Octets that it takes on the disk."""
        total = 0
        for name in self.digests:
            with contextlib.suppress(OSError):
                total += (self.folder / name).stat().st_blocks * 512
        return total


def check_name(name: str) -> None:
    """Raise `UsageError` for what cannot be the name of a saved lab."""
    if not _NAME.fullmatch(name):
        hint = "use letters, digits, and . _ - within, 63 at most"
        raise UsageError(f"{name!r} is not a name for a saved lab", hint)


def root() -> Path:
    """Return the folder of saved labs."""
    return paths.state() / "saves"


def place(name: str) -> Path:
    """Return the folder of one."""
    return root() / name


def check_free(name: str) -> None:
    """Raise `UsageError` where something has that name already."""
    check_name(name)
    if os.path.lexists(place(name)):
        remove = f"remove it: labctl saves rm {name}; or choose another name"
        raise UsageError(f"there is a saved lab {name} already", remove)


@contextlib.contextmanager
def making(name: str) -> Iterator[Path]:
    """Give an empty folder for the files of a saved lab; `keep` gives it its name.

    What a killed labctl left is removed first. Raises `UsageError` for a name that is taken,
    `HostError` where the folder cannot be written to.
    """
    try:
        owned.claim(root())
        deadline = Deadline(LOCK_SECONDS, "waiting for another lab to be saved")
        with lock.held(root() / LOCK, deadline):
            check_free(name)
            with owned.temporary(root(), _MAKING) as folder:
                yield folder
    except OSError as error:
        raise host_error(error, root()) or HostError(
            f"cannot write to {root()}: {error.strerror}",
            "set XDG_STATE_HOME to a folder that you may write to",
        ) from None


def keep(folder: Path, save: Save) -> None:
    """Move what is complete from its maker's folder to its place; raises `OSError`."""
    atomic.write(folder / NOTES, documents.dumps(save, Save, NOTES, VERSION), sync=True)
    owned.mark(folder, save.folder)
    folder.rename(save.folder)


def load(name: str) -> Save:
    """Return a saved lab by its name; what is in its files is checked by who goes on from them.

    Raises `UsageError` where there is none, `LabctlError` for one that labctl did not make, cannot
    read, or that somebody else could have written.
    """
    check_name(name)
    folder = place(name)
    if not os.path.lexists(folder):
        names = [one.name for one in owned.made_in(root())]
        hint = nearest(name, names) if names else "save one: labctl save NAME"
        raise UsageError(f"there is no saved lab {name}", hint)
    if not owned.is_made(folder):
        raise LabctlError(
            f"{folder} was not made here by labctl, so it is not believed",
            "a saved lab cannot be copied or moved: bring the lab up, and save it again",
        )
    try:
        save: Save = documents.loads(trusted.read_in(folder / NOTES), Save, NOTES, VERSION)
        with trusted.folder(folder) as within:
            for file in save.digests:
                if "/" in file or file.startswith("."):
                    raise codec.CodecError(f"it names a file {file}")
                trusted.check_in(file, within, folder / file)
    except (codec.CodecError, OSError) as why:
        words = (why.strerror or str(why)) if isinstance(why, OSError) else str(why)
        raise damaged(name, words) from None
    if save.name != name or any(one.state not in save.digests for one in save.guests.values()):
        raise damaged(name, "its notes are of another one")
    return save


def damaged(name: str, why: str) -> LabctlError:
    """Return the error of a saved lab that is not what was saved."""
    return LabctlError(
        f"the saved lab {name} cannot be used: {why}", f"remove it: labctl saves rm {name}"
    )


def listed() -> list[Save | str]:
    """Return the saved labs there are, the oldest first; of one that cannot be used its name."""
    found: list[Save | str] = []
    for folder in reversed(owned.made_in(root())):
        try:
            found.append(load(folder.name))
        except LabctlError:
            found.append(folder.name)
    return found


def remove(name: str) -> None:
    """Remove a saved lab, whatever is wrong with it.

    Raises `UsageError` where there is none, `LabctlError` for one that labctl did not make.
    """
    try:
        load(name)
    except UsageError:
        raise
    except LabctlError:
        if not owned.is_made(place(name)):
            raise
    if not owned.remove(place(name)) or os.path.lexists(place(name)):
        raise LabctlError(f"{place(name)} cannot be removed", f"look at it: ls -la {place(name)}")
