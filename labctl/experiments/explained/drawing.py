"""A packet's way drawn with lines of text: boxes down one rail, Xen hosts as boxes around them.

Every box has its observation points on the rail, so that the same rows of two drawings side by
side are the same stage of two stories.
"""

from __future__ import annotations

from itertools import groupby

from labctl.experiments.explained.route import Part

RAIL = 4
"""Columns between the left side of a box and the rail."""
MARGIN = 2
"""What a Xen host's box takes at each side of the boxes inside."""


def draw(parts: tuple[Part, ...], width: int) -> list[str]:
    """Return a drawing whose lines are all `width` columns wide."""
    nested = any(part.host for part in parts)
    inner = width - 2 * MARGIN if nested else width
    lines: list[str] = []
    runs = [(host, list(run)) for host, run in groupby(parts, key=lambda part: part.host)]
    for number, (host, run) in enumerate(runs):
        first, last = number == 0, number == len(runs) - 1
        body: list[str] = []
        for part in run:
            entered = not (first and part is run[0])
            left = not (last and part is run[-1])
            body += _box(part, inner, entered=entered, left=left)
            if part.to_next and part is not run[-1]:
                body.append(_between(part.to_next, inner))
        if host:
            lines.append(_edge(f"{host}: Xen host", width, RAIL + MARGIN, "┌┐", crossed=not first))
            lines += [f"│{' ' * (MARGIN - 1)}{line}{' ' * (MARGIN - 1)}│" for line in body]
            lines.append(_edge("", width, RAIL + MARGIN, "└┘", crossed=not last))
        else:
            side = " " * MARGIN if nested else ""
            lines += [f"{side}{line}{side}" for line in body]
        if run[-1].to_next:
            side = " " * MARGIN if nested else ""
            lines.append(f"{side}{_between(run[-1].to_next, inner)}{side}")
    return lines


def beside(left: list[str], right: list[str], gap: int) -> list[str]:
    """Put two drawings side by side, rows filled up."""
    height = max(len(left), len(right))
    widths = max((len(line) for line in left), default=0)
    rows = zip(
        left + [""] * (height - len(left)), right + [""] * (height - len(right)), strict=True
    )
    return [f"{one:{widths}}{' ' * gap}{two}".rstrip() for one, two in rows]


def _box(part: Part, width: int, *, entered: bool, left: bool) -> list[str]:
    lines = [_edge(part.title, width, RAIL, "┌┐", crossed=entered)]
    for number, point in enumerate(part.points):
        if number:
            lines.append(_row("│", width))
        lines.append(_row(f"● {point.name:11} {point.kind}", width))
    return [*lines, _edge("", width, RAIL, "└┘", crossed=left)]


def _row(text: str, width: int) -> str:
    room = width - RAIL - 2
    return f"│{' ' * (RAIL - 1)}{_fit(text, room):{room}} │"


def _edge(title: str, width: int, rail: int, corners: str, *, crossed: bool) -> str:
    """Return a side of a box, crossed by the rail or not, with a title where it has one."""
    line = ["─"] * (width - 2)
    if crossed:
        line[rail - 1] = "┼"
    if title:
        start = rail + 1
        text = f" {_fit(title, width - start - 5)} "
        line[start : start + len(text)] = text
    return f"{corners[0]}{''.join(line)}{corners[1]}"


def _between(text: str, width: int) -> str:
    return f"{' ' * RAIL}│  {_fit(text, width - RAIL - 3)}".ljust(width)


def _fit(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"
