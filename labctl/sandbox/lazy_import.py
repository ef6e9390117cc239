"""Modules that are imported when something of them is first used.

A process that only names a function for an agent to run (see `labctl.sandbox.client`) must import
the module the function is in, but not the libraries that it works with inside: pyroute2 alone takes
a sixth of a second.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Late:
    """Stands for a module; `if not TYPE_CHECKING` keeps its types for who checks them."""

    def __init__(self, name: str) -> None:
        """Stand for the module `name`."""
        self._name = name

    def __getattr__(self, name: str) -> Any:
        """Import the module, if nobody has, and return what is asked for."""
        return getattr(import_module(self._name), name)
