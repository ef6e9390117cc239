"""Short-lived sandboxes beside the labs, for a probe or for doctor; a killed maker leaves none.

Each has a hidden folder, marked and locked by the process that made it (`labctl.sandbox.owned`).
The kernel drops the lock with the process, whatever ended it, and whoever makes the next sandbox
removes what is not locked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from labctl.errors import LabctlError
from labctl.sandbox import owned, paths
from labctl.sandbox.namespaces import Namespaces

PREFIX = ".s-"
"""Short, for sockets lie below it."""
WORLD = "w"


@contextlib.contextmanager
def sandbox() -> Iterator[Namespaces]:
    """Make a sandbox for the length of the `with` block; raises as `Namespaces.create` does."""
    sweep()
    with folder() as place:
        made = Namespaces.create(place / WORLD)
        try:
            yield made
        finally:
            made.end()


def folder() -> contextlib.AbstractContextManager[Path]:
    """Make a folder in the runtime folder for the length of a `with` block."""
    return owned.temporary(paths.runtime(), PREFIX)


def sweep() -> None:
    """Remove the folders whose makers have ended, as far as their sandboxes have."""
    owned.sweep(paths.runtime(), PREFIX, lambda entry: not _lives(entry / WORLD))


def _lives(directory: Path) -> bool:
    try:
        Namespaces.attach(directory)
    except (OSError, ValueError, TypeError, LabctlError):
        return False
    return True
