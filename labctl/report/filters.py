"""Filters of a page's rows that need no script: radio buttons, and rules of CSS made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """One value by which rows can be filtered."""

    label: str
    css: str
    """The class of the rows that have it."""
    count: int


@dataclass(frozen=True)
class Filter:
    """A question by whose answer rows can be filtered."""

    name: str
    title: str
    choices: tuple[Choice, ...]

    def classes(self, values: Sequence[str]) -> list[str]:
        """Return the classes of a row that has these values."""
        return [choice.css for choice in self.choices if choice.label in values]


def make_filter(
    name: str,
    title: str,
    rows: Sequence[Sequence[str]],
    *,
    order: Sequence[str] | None = None,
    last: str = "",
) -> Filter:
    """Return the filter of rows by the values that each of them has.

    Values come in `order`, else sorted, `last` after all others. `name` is a word of CSS.
    """
    counts: dict[str, int] = {}
    for values in rows:
        for value in values:
            counts[value] = counts.get(value, 0) + 1
    ordered = (
        sorted(counts, key=lambda value: (value == last, value))
        if order is None
        else [value for value in order if value in counts]
    )
    choices = (
        Choice(value, f"{name}-{number}", counts[value]) for number, value in enumerate(ordered)
    )
    return Filter(name, title, tuple(choices))
