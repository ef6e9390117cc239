"""One stream of progress events feeds the terminal, the log and the records.

Rooms report with an `Emit` callable they are given; they never print.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

State = Literal["start", "progress", "done", "failed"]


@dataclass(frozen=True)
class Event:
    """One thing that happened: `subject` (a node, an image, a check) at `stage`."""

    stage: str
    """What is going on, such as `image`, `network`, `boot`, `experiment`."""
    subject: str
    """What it is about, such as a node's or an image's name."""
    state: State
    detail: str = ""
    fraction: float | None = None
    """How much is done, 0 to 1, where it is known."""
    time: float = field(default_factory=time.time)
    """Seconds since the epoch."""


Emit = Callable[[Event], None]


def silent(_event: Event) -> None:
    """Drop the event: the default where nobody listens."""


@contextmanager
def reported(emit: Emit, stage: str, subject: str) -> Iterator[None]:
    """Frame work with its first and its last event."""
    emit(Event(stage, subject, "start"))
    try:
        yield
    except BaseException as error:
        emit(Event(stage, subject, "failed", str(error)))
        raise
    emit(Event(stage, subject, "done", fraction=1.0))
