"""Which labs that run have a disk image as the base of an overlay."""

from __future__ import annotations

import contextlib

from labctl.errors import LabctlError
from labctl.lab import state


def find() -> dict[str, list[str]]:
    """Return the names of the labs that use each disk image, by its SHA-256."""
    found: dict[str, list[str]] = {}
    for folder in state.known():
        with contextlib.suppress(LabctlError):  # it is coming up, or another labctl's
            known = state.load(folder)
            if state.alive(folder):
                for sha256 in sorted({disk.facts.sha256 for disk in known.disks.values()}):
                    found.setdefault(sha256, []).append(known.name)
    return found
