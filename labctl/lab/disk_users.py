"""Which labs, running or saved, have a disk image as the base of an overlay."""

from __future__ import annotations

import contextlib

from labctl.errors import LabctlError
from labctl.images.disk_remove import SAVED
from labctl.lab import saves, state


def find() -> dict[str, list[str]]:
    """Return the names of the labs that use each disk image, by its SHA-256.

    Before that of a saved one stands `SAVED`.
    """
    found: dict[str, list[str]] = {}
    for folder in state.known():
        with contextlib.suppress(LabctlError):  # it is coming up, or another labctl's
            known = state.load(folder)
            if state.alive(folder):
                for sha256 in sorted({disk.facts.sha256 for disk in known.disks.values()}):
                    found.setdefault(sha256, []).append(known.name)
    for save in saves.listed():
        if not isinstance(save, str):
            for sha256 in sorted({disk.facts.sha256 for disk in save.state.disks.values()}):
                found.setdefault(sha256, []).append(f"{SAVED}{save.name}")
    return found
