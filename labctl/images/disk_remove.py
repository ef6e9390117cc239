"""Disk images chosen by what a user calls them, and removed from the cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from labctl.errors import LabctlError, UsageError
from labctl.images import disk_cache
from labctl.images.disk_cache import Disk

SAVED = "saved "
"""Stands before the name of a lab that is saved, where users of a disk image are told."""
SHORTEST = 6
"""Digits of a digest that may stand for it."""


def chosen(word: str | None) -> list[Disk]:
    """Return the disk image that a word means, by its name, source or digest; all for None.

    Nothing where it means none of them. Raises `UsageError` where it means several.
    """
    known = disk_cache.listed()
    if word is None:
        return known
    found = [
        one
        for one in known
        if word in (one.name, one.facts.source)
        or (len(word) >= SHORTEST and one.facts.sha256.startswith(word.lower()))
    ]
    if len(found) > 1:
        digests = ", ".join(one.facts.sha256[:12] for one in found)
        raise UsageError(f"{word} means several disk images", f"name one by its digest: {digests}")
    return found


def remove(
    disks: Sequence[Disk], users: Mapping[str, Sequence[str]], *, rest: bool = False
) -> Iterator[str]:
    """Remove disk images and yield what is gone; the `rest` of what fetching keeps, too.

    `users` has the labs that use each, by its digest. Raises `LabctlError` at the end where one is
    in use, or labctl did not make its folder: that stays.
    """
    stay = []
    for one in disks:
        sha256 = one.facts.sha256
        if labs := users.get(sha256):
            what = f"{one.name} stays: the lab {labs[0]} uses it"
            _, saved, name = labs[0].rpartition(SAVED)
            hint = f"run: labctl saves rm {name}" if saved else f"run: labctl down {name}"
            stay.append(LabctlError(what, hint))
        elif disk_cache.remove(sha256):
            yield f"{one.name} {sha256[:12]}"
        else:
            what = f"{one.path.parent} holds what labctl did not make, which stays"
            stay.append(LabctlError(what, "look at it, and remove it"))
    if rest:
        disk_cache.remove_rest()
    if stay:
        raise stay[0]
