"""Where the names of hops stand in a drawing: beside their signs, over nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from labctl.report.text_width import ASCENT, DESCENT, lines, width

SIZE = 13.0
PITCH = 16.0
"""From line to line."""
ROOM = 150.0
"""As wide is a line of a name at most."""
MOST = 3
SIGN = (17.0, 21.0, 15.0)
"""From the middle of a sign to its sides, its top and its bottom."""
AIR = 2.0
_NEAR = 9.0

Anchor = Literal["start", "middle", "end"]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Segment = tuple[float, float, float, float]
"""Both ends of a line: x, y, x, y."""


@dataclass(frozen=True)
class Label:
    """Lines of text: where the first one's baseline is, and what they cover."""

    lines: tuple[str, ...]
    x: float
    y: float
    anchor: Anchor
    box: Box


@dataclass(frozen=True)
class Wanted:
    """A hop that needs a name at its sign, and which way its line goes from there."""

    name: str
    number: int
    x: float
    y: float
    towards: tuple[float, float]
    below: bool
    """Whether its name goes below its line, where that is level."""


def text_box(words: str, size: float, x: float, y: float, anchor: str, *, bold: bool) -> Box:
    """Return what one line of text covers."""
    wide = width(words, size, bold=bold)
    left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
    return left, y - ASCENT * size, left + wide, y + DESCENT * size


def sign_box(x: float, y: float) -> Box:
    """Return what the sign of a hop covers."""
    side, top, bottom = SIGN
    return x - side, y - top, x + side, y + bottom


class Labels:
    """Gives each hop the place for its name that is clear of all that is there already."""

    def __init__(self, taken: Sequence[Box], drawn: Sequence[Segment]) -> None:
        self._taken = list(taken)
        self._drawn = drawn

    def place(self, wanted: Wanted) -> Label | None:
        """Return the label of a hop; None where there is no room for it."""
        number = width(f"{wanted.number} ", SIZE, bold=True) if wanted.number else 0.0
        words = lines(wanted.name, SIZE, ROOM - number, MOST)
        wide = max(
            width(line, SIZE) + (0.0 if at else number) for at, line in enumerate(words)
        )  # the number stands before the first
        best: Label | None = None
        cost = math.inf
        for at, (x, y, anchor) in enumerate(_candidates(wanted, len(words))):
            left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
            bottom = y + PITCH * (len(words) - 1) + DESCENT * SIZE
            box = (left, y - ASCENT * SIZE, left + wide, bottom)
            if left < 0 or box[1] < 0 or any(overlap(box, other) for other in self._taken):
                continue
            this = at + 10 * sum(_crossed(box, segment) for segment in self._drawn)
            if this < cost:
                best, cost = Label(words, x, y, anchor, box), this
        if best is not None:
            self._taken.append(best.box)
        return best


def _candidates(wanted: Wanted, count: int) -> Iterator[tuple[float, float, Anchor]]:
    """Yield places near a sign: where the baseline of the first line is, best first."""
    x, y = wanted.x, wanted.y
    side, top, bottom = SIGN
    dx, dy = wanted.towards
    last = PITCH * (count - 1)
    under = y + bottom + AIR + ASCENT * SIZE - 0.5
    over = y - top - AIR - DESCENT * SIZE - last
    middle = y + 4 - last / 2
    beside: list[tuple[float, float, Anchor]] = [
        (x + side + 3, middle, "start"),
        (x - side - 3, middle, "end"),
    ]
    level = abs(dy) <= abs(dx) / 8
    if not level and abs(dx) >= abs(dy):  # a slope: on the side where the line is not
        away = over + 6 if dx * dy > 0 else under - 6
        yield x + _NEAR + 3, away, "start"
    if not level:
        yield from beside
    rows = (under, over) if wanted.below else (over, under)
    for row in rows:
        yield x + math.copysign(_NEAR, dx), row, "middle"  # away from the box
        for share in (0.25, 0.5, 0.75, 1.0):
            yield x + dx * share, row, "middle"
        yield x - side, row, "start"
        yield x + side, row, "end"
    if level:
        yield from beside


def overlap(one: Box, other: Box) -> bool:
    """Tell whether two boxes have room in common, or less than a little air between them."""
    return (
        one[0] < other[2] + AIR
        and other[0] < one[2] + AIR
        and one[1] < other[3] + AIR / 2
        and other[1] < one[3] + AIR / 2
    )


def _crossed(box: Box, segment: Segment) -> bool:
    """Tell whether a line passes a box (Liang and Barsky, 1984)."""
    x1, y1, x2, y2 = segment
    start, end = 0.0, 1.0
    for step, low, high in (
        (x2 - x1, box[0] - x1, box[2] - x1),
        (y2 - y1, box[1] - y1, box[3] - y1),
    ):
        if step == 0:
            if low > 0 or high < 0:
                return False
            continue
        near, far = sorted((low / step, high / step))
        start, end = max(start, near), min(end, far)
    return start < end
