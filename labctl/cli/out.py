"""The one way out to the terminal: whoever wrote a text, nothing in it acts there.

Names, console lines and errors come from guests, from files of strangers and from other programs,
and a terminal obeys what is among them: it sets its title, moves the cursor over a verdict, turns
a word round. So all that is printed goes through streams that spell such characters out, and what
is ours to colour is given apart from its text (`say`, `Page`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TextIO, cast

import click

from labctl.errors import clean


class CleanStream:
    """A text stream that spells out what would act on a terminal.

    It has no `buffer`: what a program writes there would be seen as it is.
    """

    def __init__(self, raw: TextIO) -> None:
        """Write to `raw`."""
        self.raw_text = raw

    def write(self, text: str) -> int:
        """Write clean text."""
        self.raw_text.write(clean(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write clean lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self.raw_text, name)


def install() -> None:
    """Let this process print clean text only."""
    sys.stdout = cast("TextIO", CleanStream(raw(sys.stdout)))
    sys.stderr = cast("TextIO", CleanStream(raw(sys.stderr)))


def raw(stream: TextIO) -> TextIO:
    """Return what is behind a clean stream, for those who clean what they write themselves."""
    return cast("TextIO", getattr(stream, "raw_text", stream))


@dataclass(frozen=True)
class Styled:
    """Text to be shown in a colour, or bold."""

    text: str
    fg: str | None = None
    bold: bool | None = None

    def shown(self) -> str:
        """Return the clean text with its style."""
        return click.style(clean(self.text), fg=self.fg, bold=self.bold)


def say(*parts: str | Styled) -> None:
    """Print one line of texts, some of them styled."""
    words = (part.shown() if isinstance(part, Styled) else clean(part) for part in parts)
    click.echo("".join(words), file=raw(sys.stdout))
