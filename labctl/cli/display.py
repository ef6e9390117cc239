"""Progress on standard error: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from labctl.events import Event


class Display(Protocol):
    """Shows events as they come."""

    def __call__(self, event: Event) -> None:
        """Show one event."""

    def __enter__(self) -> Self:
        """Start showing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop showing; what was shown stays readable."""


class Lines:
    """One plain line an event, for logs; progress without words is left out."""

    def __init__(self) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        """Nothing to start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to stop."""

    def __call__(self, event: Event) -> None:
        """Print the event."""
        if event.state == "progress" and event.stage != "check":
            return
        seconds = time.monotonic() - self._begun
        words = f"{event.stage} {event.subject}".ljust(28)
        detail = f" {event.detail}" if event.detail else ""
        mark = {"start": "…", "done": "ok", "failed": "FAILED"}.get(event.state, "")
        with contextlib.suppress(OSError):  # a log that is full: the work matters more
            print(f"{seconds:7.1f} {words} {mark}{detail}".rstrip(), file=sys.stderr, flush=True)


@contextlib.contextmanager
def paused(show: Display) -> Iterator[None]:
    """Show nothing for the length of a `with` block, in which the terminal is somebody else's."""
    show.__exit__(None, None, None)
    try:
        yield
    finally:
        show.__enter__()


def display() -> Display:
    """Return the display that fits standard error.

    On a terminal that cannot move its cursor rich would show nothing of what goes on.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return Lines()
    from labctl.cli.screen import Screen  # rich takes long to import

    return Screen()
