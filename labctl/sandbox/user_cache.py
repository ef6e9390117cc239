"""What was found out before and still holds, in the user's cache.

An entry lies under the digest of all it comes from, so that one that no longer holds is not found.
It only saves time: whatever is wrong with one, the caller finds out anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from labctl.errors import LabctlError
from labctl.sandbox import (
    atomic,
    codec,
    documents,
    owned,
    paths,
    trusted,
)

MOST = 100
"""How many of a kind are kept, those used longest ago go first."""
VERSION = 1
"""Of the files; what an entry is of is told by its key."""


def key(room: Path, parts: Iterable[bytes | str]) -> str:
    """Return the digest, in hex, of what an entry comes from and of the code that made it.

    `room` is the folder of that code. Raises `OSError`.
    """
    digest = hashlib.sha256()

    def add(part: bytes) -> None:
        digest.update(b"%d:%b" % (len(part), part))  # no two lists of parts look the same

    for file in sorted(room.glob("*.py")):
        facts = file.stat()
        add(f"{file} {facts.st_mtime_ns} {facts.st_size}".encode())
    add(sys.version.encode())
    for part in parts:
        add(part if isinstance(part, bytes) else part.encode(errors="surrogateescape"))
    return digest.hexdigest()


def load(kind: str, key: str, of: Any) -> Any:
    """Return what is kept under a key, a value of the type `of`; None where it is of no use.

    What somebody else could have written is of none.
    """
    with (
        contextlib.suppress(OSError, LabctlError, codec.CodecError),
        trusted.folder(_place(kind)) as folder,
    ):
        entry = _place(kind) / key
        value = documents.loads(trusted.read(key, folder, entry), of, kind, VERSION)
        with contextlib.suppress(OSError):  # one that cannot be written to serves as well
            os.utime(key, dir_fd=folder, follow_symlinks=False)
        return value
    return None


def keep(kind: str, key: str, value: object, of: Any) -> None:
    """Keep a value of the type `of`, whole or not at all, and remove the oldest beyond `MOST`.

    A cache that cannot be written to, or that others can write to, keeps nothing.
    """
    folder = _place(kind)
    with contextlib.suppress(OSError, LabctlError, codec.CodecError):
        made = owned.claim(folder)
        with trusted.folder(folder):
            atomic.write(folder / key, documents.dumps(value, of, kind, VERSION))
        if made:  # else it holds what others have put there
            entries = [one for one in folder.iterdir() if len(one.name) == len(key)]
            by_age = sorted(entries, key=lambda one: one.stat().st_mtime)
            for old in by_age[:-MOST]:
                old.unlink(missing_ok=True)


def _place(kind: str) -> Path:
    return paths.cache() / kind
