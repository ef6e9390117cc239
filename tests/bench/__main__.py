"""`python -m tests.bench [PART] [OPTIONS]`: without a part, every part with its defaults."""

from __future__ import annotations

import importlib
import importlib.util
import sys

PARTS = ("labs", "xen", "inspect")
"""Modules of this package; each has `main(arguments) -> None`."""


def main(words: list[str]) -> None:
    chosen: tuple[str, ...]
    if words and not words[0].startswith("-"):
        if words[0] not in PARTS:
            sys.exit(f"bench: there is no part {words[0]}; there are: {', '.join(PARTS)}")
        chosen, words = (words[0],), words[1:]
    else:
        # Options without a part are those of the first: `make bench ARGS="--guests 1,2"`.
        chosen = PARTS[:1] if words else PARTS
    for part in chosen:
        name = f"{__package__}.{part}"
        if importlib.util.find_spec(name):
            importlib.import_module(name).main(words)


if __name__ == "__main__":
    main(sys.argv[1:])
