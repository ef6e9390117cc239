"""Progress on standard error: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from labctl.events import Event

MARKS = {"start": "…", "progress": "·", "done": "✓", "failed": "✗"}
STYLES = {"start": "cyan", "progress": "cyan", "done": "green", "failed": "red"}


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
        print(f"{seconds:7.1f} {words} {mark}{detail}".rstrip(), file=sys.stderr, flush=True)


class Screen:
    """What goes on now, redrawn in place; what is over moves up as plain lines."""

    def __init__(self, console: Console) -> None:
        """Prepare to draw on `console`."""
        self._console = console
        self._running: dict[tuple[str, str], tuple[Event, Spinner]] = {}
        self._lock = threading.Lock()
        self._live = Live(console=console, transient=True, get_renderable=self._draw)

    def __enter__(self) -> Self:
        """Start drawing."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing."""
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show the event."""
        key = (event.stage, event.subject)
        with self._lock:
            if event.state in ("start", "progress") and event.stage != "check":
                spinner = self._running.get(key, (event, Spinner("dots")))[1]
                self._running[key] = (event, spinner)
                return
            begun = self._running.pop(key, None)
        line = Text(f"{MARKS[event.state]} ", style=STYLES[event.state])
        if event.stage == "check":
            verdict, _, rest = event.detail.partition(": ")
            colour = {"pass": "green", "skip": "yellow"}.get(verdict, "red")
            line = Text("    ").append(f"{verdict:5} ", style=colour).append(rest, style="default")
        else:
            line.append(f"{event.stage} ", style="dim").append(event.subject, style="bold")
            if event.detail:
                line.append(f"  {event.detail}", style="default")
            elif begun:
                line.append(f"  {event.time - begun[0].time:.1f} s", style="dim")
        self._live.console.print(line, highlight=False)

    def _draw(self) -> Table:
        table = Table.grid(padding=(0, 1))
        with self._lock:
            running = list(self._running.values())
        for event, spinner in running:
            share = f"{event.fraction:4.0%}" if event.fraction is not None else ""
            seconds = f"{time.time() - event.time:.0f} s"
            table.add_row(
                spinner, Text(event.stage, style="dim"), Text(event.subject, style="bold"),
                share, Text(event.detail), Text(seconds, style="dim"),
            )  # fmt: skip
        return table


def display() -> Display:
    """Return the display that fits standard error."""
    console = Console(stderr=True)
    return Screen(console) if console.is_terminal else Lines()
