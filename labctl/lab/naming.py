"""Names of labs: what one may be, and the one that a topology's name gives."""

from __future__ import annotations

import re

from labctl.errors import UsageError

LENGTH = 40
_NAME = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{LENGTH - 1}}}")
_NAMELESS = "lab"


def is_name(name: str) -> bool:
    """Whether a lab may be called so."""
    return bool(_NAME.fullmatch(name))


def check(name: str) -> None:
    """Raise `UsageError` for what cannot be a lab's name."""
    if not is_name(name):
        hint = f"use a-z, 0-9 and -, {LENGTH} at most"
        raise UsageError(f"{name!r} is not a name for a lab", hint)


def from_topology(name: str, mark: str = "") -> str:
    """Return the lab's name that the name of a topology gives, such as `my-pair` of `My_Pair`.

    Whatever is in it, down to a file's name that nobody has checked. A `mark` that tells it from
    others is put behind, with a hyphen, and never cut.
    """
    tail = f"-{mark}" if mark else ""
    plain = re.sub("[^a-z0-9-]+", "-", name.lower()).strip("-")
    return (plain[: LENGTH - len(tail)].strip("-") or _NAMELESS) + tail
