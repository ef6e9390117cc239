"""How to get into a guest that labctl does not configure: by SSH, by its console, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STEP_SECONDS = 300.0
"""How long a console may take to say what is waited for, where that is not said."""


@dataclass(frozen=True)
class Secret:
    """Where a text is that is not to be in a topology: in a variable, or the line of a file."""

    env: str = ""
    """The name of an environment variable."""
    file: Path | None = None

    @property
    def key(self) -> str:
        """What tells it from others."""
        return f"env:{self.env}" if self.env else f"file:{self.file}"


@dataclass(frozen=True)
class Login:
    """Who logs in by SSH, and by what; it has a `password` or a `key`."""

    user: str
    password: Secret | None = None
    key: Path | None = None
    """A file with a private key, absolute."""


@dataclass(frozen=True)
class ConsoleStep:
    """What is waited for on a console, and what is typed then."""

    expect: str
    """A text within a line; a `*` in it stands for anything in that line."""
    send: str | None = None
    """A line to type; None for nothing."""
    secret: Secret | None = None
    """Where the line is, in place of `send`."""
    within: float = STEP_SECONDS
    """Seconds."""
