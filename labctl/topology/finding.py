"""Which file a topology's name means; light, unlike reading it."""

from __future__ import annotations

import os
from pathlib import Path

from labctl.errors import UsageError, nearest, shown
from labctl.shipped import folder


def shipped() -> list[Path]:
    """Return the topology files that come with labctl, by name."""
    return sorted(folder("topologies").glob("*.yaml"))


def find(name: str) -> Path:
    """Return the file that `name` means.

    That is the path itself, or with `.yaml` added, or else the shipped topology of this name.
    What is there under the very name is returned although it is no file, or cannot be looked at:
    reading it tells what is wrong. Raises `UsageError` that tells the shipped names.
    """
    for candidate in (name, f"{name}.yaml", f"{name}.yml"):
        try:
            if Path(candidate).is_file():
                return Path(candidate)
        except PermissionError:
            return Path(candidate)
        except (OSError, ValueError):  # too long, a zero octet
            break
    files = shipped()
    for path in files:
        if name in (path.name, path.stem):
            return path
    if name and os.path.lexists(name):
        return Path(name)
    stems = [path.stem for path in files]
    close = nearest(Path(name).stem, stems)
    told = f"{close} shipped: {', '.join(stems)}" if close.startswith("did") else ""
    raise UsageError(f"there is no topology {shown(name)}", told or f"shipped: {', '.join(stems)}")
