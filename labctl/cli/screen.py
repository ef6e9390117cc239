"""What goes on, drawn live on a terminal."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Self

from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from labctl.cli.console import CleanConsole
from labctl.events import Event

MARKS = {"start": "…", "progress": "·", "done": "✓", "failed": "✗"}
STYLES = {"start": "cyan", "progress": "cyan", "done": "green", "failed": "red"}


class Screen:
    """What goes on now, redrawn in place; what is over moves up as plain lines."""

    def __init__(self) -> None:
        """Prepare to draw on standard error."""
        console = CleanConsole(stderr=True)
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
                first, spinner = self._running.get(key, (event, Spinner("dots")))
                self._running[key] = (replace(event, time=first.time), spinner)
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
            words = Text(event.detail, no_wrap=True, overflow="ellipsis")
            table.add_row(
                spinner, Text(event.stage, style="dim"), Text(event.subject, style="bold"),
                share, words, Text(seconds, style="dim"),
            )  # fmt: skip
        return table
