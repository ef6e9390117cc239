"""`python -m tests.matrix PART [OPTIONS]`: without a part, the simulation."""

from __future__ import annotations

import importlib
import sys

PARTS = ("simulate", "proof")
"""Modules of this package; each has `main(arguments) -> int`."""


def main(words: list[str]) -> int:
    part = words.pop(0) if words and not words[0].startswith("-") else PARTS[0]
    if part not in PARTS:
        sys.exit(f"matrix: there is no part {part}; there are: {', '.join(PARTS)}")
    found: int = importlib.import_module(f"{__package__}.{part}").main(words)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
