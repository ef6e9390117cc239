"""What was found: kept once for each fault, by its smallest input."""

from __future__ import annotations

import re
import time
from pathlib import Path

from .target import Finding, Target, classify

MAX_ATTEMPTS = 600
SECONDS = 20.0
"""How long and how often a smaller input is looked for."""


def keep(folder: Path, target: Target, data: bytes, found: Finding, shrink: bool = True) -> bool:
    """Keep an input and what is wrong with its answer; tell whether the fault is new.

    `shrink`: and the smallest input that is found to show the same.
    """
    name = re.sub(r"[^A-Za-z0-9]+", "-", found.key).strip("-")[:80]
    place = folder / name
    if place.exists():
        return False
    place.mkdir(parents=True)
    (place / "input").write_bytes(data)
    (place / "what").write_text(f"{found.key}\n\n{found.text}", errors="backslashreplace")
    if shrink:
        (place / "smallest").write_bytes(smaller(target, data, found.key))
    return True


def smaller(target: Target, data: bytes, key: str) -> bytes:
    """Return an input that shows the same fault, with what can be left out left out."""
    ends = time.monotonic() + SECONDS
    tries = 0
    size = max(len(data) // 2, 1)
    while size:
        at = 0
        while at < len(data):
            if tries >= MAX_ATTEMPTS or time.monotonic() > ends:
                return data
            shorter = data[:at] + data[at + size :]
            tries += 1
            found = classify(target, shorter)
            if found is not None and found.key == key:
                data = shorter
            else:
                at += size
        size //= 2
    return data
