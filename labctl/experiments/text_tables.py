"""Tables of text for the page an experiment prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labctl.experiments.evidence import Step
from labctl.experiments.probes import Answer
from labctl.lab.hop_locations import hop_locations


def table(columns: Mapping[str, tuple[Sequence[Step], Answer | None]]) -> list[str]:
    """Return a table with a row a hop and a column a way, SSH's fate in the last row.

    All columns must have the same hops. Without any column there is nothing to tell.
    """
    if not columns:
        return []
    steps = next(iter(columns.values()))[0]
    places = hop_locations([step.hop for step in steps])
    rows = [["hop", "place", *columns]]
    for number, step in enumerate(steps):
        name = step.hop.name
        rows.append([name, places[name], *(ways[number].state for ways, _ in columns.values())])
    outcomes = [_outcome(answer) for _, answer in columns.values()]
    rows.append(["SSH", "", *outcomes])
    lines = aligned(rows)
    rule = "  " + "  ".join("─" * width for width in _widths(rows))
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line a row, indented, with the cells below each other."""
    widths = _widths(rows)
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]


def _outcome(answer: Answer | None) -> str:
    if answer is None or answer.works is None:
        return "could not be told"
    return "works" if answer.works else "hangs" if answer.hangs else "fails"
