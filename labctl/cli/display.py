"""Progress on standard error: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from labctl.errors import clean
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


PROGRESS_SECONDS = 30.0
"""How often a log is told what a guest that boots is at."""


class Lines:
    """One plain line an event, for logs; most progress is left out, and all without words."""

    def __init__(self) -> None:
        """Start the clock."""
        self._begun = time.monotonic()
        self._told: dict[tuple[str, str], float] = {}
        """When a line was last printed, by stage and subject."""

    def __enter__(self) -> Self:
        """Nothing to start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to stop."""

    def __call__(self, event: Event) -> None:
        """Print the event."""
        now, key = time.monotonic(), (event.stage, event.subject)
        if event.state == "progress" and event.stage != "check":
            due = now - self._told.get(key, now) >= PROGRESS_SECONDS
            if event.stage != "boot" or not event.detail or not due:
                return
        self._told[key] = now
        seconds = now - self._begun
        words = f"{event.stage} {event.subject}".ljust(28)
        detail = f" {clean(event.detail)}" if event.detail else ""
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
