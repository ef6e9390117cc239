"""Where tables are printed."""

from __future__ import annotations

from typing import NoReturn

from rich.console import Console


class Page(Console):
    """Leaves a broken pipe to the command line: rich would exit with 1, which means failure."""

    def on_broken_pipe(self) -> NoReturn:
        """Called by rich while it handles the `BrokenPipeError`."""
        raise
