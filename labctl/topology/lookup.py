"""Which file a topology's name means; light, unlike reading it."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from labctl.errors import UsageError, nearest, shown
from labctl.shipped import folder


def shipped() -> list[Path]:
    """Return the topology files that come with labctl, by name."""
    return sorted(folder("topologies").glob("*.yaml"))


def find_shipped(name: str) -> Path:
    """Return the shipped file of this name, whatever lies in the working directory.

    Raises `LookupError` where there is none.
    """
    for path in shipped():
        if name in (path.name, path.stem):
            return path
    raise LookupError(name)


def find(name: str) -> Path:
    """Return the file that `name` means.

    That is the path itself, or with `.yaml` added, or else the shipped topology of this name. Who
    names a shipped one does not mean a file of somebody else's that lies in the working directory
    where that is everybody's, such as /tmp: `./NAME` does.
    What is there under the very name is returned although it is no file, or cannot be looked at:
    reading it tells what is wrong. Raises `UsageError` that tells the shipped names.
    """
    for candidate in (name, f"{name}.yaml", f"{name}.yml"):
        try:
            if Path(candidate).is_file() and not _is_a_trap(Path(candidate), name):
                return Path(candidate)
        except PermissionError:
            return Path(candidate)
        except (OSError, ValueError):  # too long, a zero octet
            break
    with contextlib.suppress(LookupError):
        return find_shipped(name)
    if name and os.path.lexists(name):
        return Path(name)
    stems = [path.stem for path in shipped()]
    close = nearest(Path(name).stem, stems)
    told = f"{close} shipped: {', '.join(stems)}" if close.startswith("did") else ""
    raise UsageError(f"there is no topology {shown(name)}", told or f"shipped: {', '.join(stems)}")


def _is_a_trap(file: Path, name: str) -> bool:
    """Whether a file with a shipped one's name is somebody else's, in a folder of everybody's."""
    if {file.lstat().st_uid, file.stat().st_uid} <= {0, os.geteuid()}:
        return False
    if not file.absolute().parent.stat().st_mode & stat.S_IWOTH:
        return False  # whoever works in another user's folder means what is there
    return any(name in (path.name, path.stem) for path in shipped())
