"""Where tables are printed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from labctl.cli.out import raw
from labctl.errors import clean


class CleanConsole(Console):
    """Shows texts without what would act on a terminal; styles are rich's own, beside the text."""

    def __init__(self, *, stderr: bool = False, **more: Any) -> None:
        """Print on standard output, or on standard error."""
        super().__init__(file=raw(sys.stderr if stderr else sys.stdout), **more)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render with clean texts."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(clean(text), style)


class Page(CleanConsole):
    """Leaves a broken pipe to the command line: rich would exit with 1, which means failure."""

    def on_broken_pipe(self) -> NoReturn:
        """Called by rich while it handles the `BrokenPipeError`."""
        raise
