"""libarchive, of the name that Debian gives it."""

from __future__ import annotations

import os
from typing import Any

LIBRARY = "libarchive.so.13"
"""Of the package libarchive13; the name has stayed since version 3.0 (2011)."""


def libarchive() -> Any:
    """Return libarchive's binding; raises `OSError` where the library is not installed.

    Left to itself the binding starts ldconfig(8), or a compiler, to find the library. Where these
    are killed or missing it has none, and says so of the program's own symbols.
    """
    os.environ.setdefault("LIBARCHIVE", LIBRARY)
    import libarchive as binding

    return binding
