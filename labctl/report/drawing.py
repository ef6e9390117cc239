"""The topology as a drawing: where boxes, lines and hops go, wide for a desk, tall for a phone.

Plain numbers in SVG's user units; the page's template makes the elements. The longest observed
path is the main row, everything else lies beside it. A Xen host is a frame around what is in it;
a network that is on both sides of its border is two bridges, joined by the uplink.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from labctl.report import grid
from labctl.report.chart import Edge, Element, Map
from labctl.report.grid import Cell, Rect
from labctl.topology.points import ObservationPoint

BOX = (104.0, 66.0)
NEAR = 39.0
"""From a box's border to the middle of the hop's sign."""
PITCH = {"wide": (246.0, 150.0), "tall": (182.0, 172.0)}
"""Along the main row, and from row to row."""
BORDER = {"wide": (46.0, 50.0), "tall": (34.0, 58.0)}
"""What the border of a frame adds between two cells."""
MARGIN = {"wide": (14.0, 26.0), "tall": (14.0, 14.0)}
TALL_WIDTH = 346.0
PAD = 18.0
"""From an element to the border of the frame, where nothing lies beyond."""
TITLE = 34.0
"""The same at the top, where the frame's name stands."""
AIR = 6.0
"""From the border of a frame to the outermost of the drawing."""
LETTER = 7.5
"""About as wide is a letter of a hop's name."""

Shape = Literal["wide", "tall"]


@dataclass(frozen=True)
class Box:
    """A placed element; `x` and `y` are its middle."""

    element: Element
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Frame:
    """The placed border of a Xen host, from its upper left corner."""

    element: Element
    x: float
    y: float
    width: float
    height: float
    text_x: float
    anchor: Literal["start", "end"]
    """Where its name stands: in the corner that no line passes."""


@dataclass(frozen=True)
class Line:
    """A placed edge, from border to border."""

    edge: Edge
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Spot:
    """A placed hop and where its name stands."""

    hop: str
    number: int
    """Its place on the main path, from 1; 0 where it is not on it."""
    x: float
    y: float
    text_x: float
    text_y: float
    anchor: Literal["start", "middle"]


@dataclass(frozen=True)
class Drawing:
    """Everything placed."""

    shape: Shape
    width: float
    height: float
    frames: tuple[Frame, ...]
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    spots: tuple[Spot, ...]


def place(drawn: Map, path: Sequence[ObservationPoint], shape: Shape) -> Drawing:
    """Place everything of a map; hops of `path` are numbered in its order."""
    layout = _Layout(drawn, shape)
    cells = layout.cells
    boxes: dict[str, Box] = {}
    for element in drawn.elements:
        width, height = BOX if element.kind != "network" else (BOX[0], BOX[1] - 18)
        boxes[element.key] = Box(element, *layout.middle(cells[element.key]), width, height)
    lines = []
    spots = []
    numbers = {hop.name: number for number, hop in enumerate(path, start=1)}
    for edge in drawn.edges:
        owner, network = boxes[edge.owner], boxes[edge.network]
        start, end = _ends(owner, network, shape)
        if cells[edge.owner][1] > cells[edge.network][1]:
            end, start = _ends(network, owner, shape)
        elif cells[edge.owner][1] == cells[edge.network][1]:
            start = _border(owner, network.x, network.y)
            end = _border(network, owner.x, owner.y)
        lines.append(Line(edge, *start, *end))
        spots.append(_spot(edge.inside, numbers, start, end, shape, below=True))
        spots.append(_spot(edge.outside, numbers, end, start, shape, below=False))
    left, top = MARGIN[shape]
    width = max(box.x + box.width / 2 for box in boxes.values()) + left
    height = max(box.y + box.height / 2 for box in boxes.values()) + top
    if shape == "tall":
        width = max(width, TALL_WIDTH)
    frames = [_frame(frame, layout.frame(frame.key), lines) for frame in drawn.frames]
    beside = [
        spot.text_x + LETTER * (len(spot.hop) + 2) for spot in spots if spot.anchor == "start"
    ]
    width = max([width, *beside, *(frame.x + frame.width + AIR for frame in frames)])
    height = max([height, *(frame.y + frame.height + AIR for frame in frames)])
    return Drawing(
        shape, width, height, tuple(frames), tuple(boxes.values()), tuple(lines), tuple(spots)
    )


@cache
def _cells(drawn: Map) -> tuple[dict[str, Cell], dict[str, Rect]]:
    enclosures = {element.key: element.host for element in drawn.elements}
    placed = grid.cells(drawn.row, [(e.owner, e.network) for e in drawn.edges], enclosures)
    return placed, grid.rectangles(placed, enclosures)


def _crossed(
    drawn: Map, cells: Mapping[str, Cell], rects: Mapping[str, Rect]
) -> set[tuple[str, int, int]]:
    """Return the sides of frames that an edge crosses: frame, axis, and 0 or 2 for which end."""
    hosts = {element.key: element.host for element in drawn.elements}
    found = set()
    for edge in drawn.edges:
        for one, other in ((edge.owner, edge.network), (edge.network, edge.owner)):
            host = hosts[one]
            if not host or hosts[other] == host:
                continue
            for axis in (0, 1):
                if cells[other][axis] < rects[host][axis]:
                    found.add((host, axis, 0))
                if cells[other][axis] > rects[host][axis + 2]:
                    found.add((host, axis, 2))
    return found


class _Layout:
    """From cells to user units; between cells there is room for the borders of frames."""

    def __init__(self, drawn: Map, shape: Shape) -> None:
        self.cells, self._rects = cells, rects = _cells(drawn)
        self._wide = shape == "wide"
        self._crossed = _crossed(drawn, cells, rects)
        if not self._wide:  # the names of hops stand there, be it crossed or not
            self._crossed |= {(key, 1, 2) for key in rects}
        self._size = tuple(max(cell[axis] for cell in cells.values()) for axis in (0, 1))
        pitch, border, margin = PITCH[shape], BORDER[shape], MARGIN[shape]
        if not self._wide:
            margin = margin[::-1]
        self._at = []
        for axis in (0, 1):
            crossed = [one for one in self._crossed if one[1] == axis]
            first = [rects[key][axis] for key, _, end in crossed if end == 0]
            last = [rects[key][axis + 2] for key, _, end in crossed if end == 2]
            framed = any(rect[axis] == 0 for rect in rects.values())
            at = max(margin[axis], AIR + self._pads(axis)[0] if framed else 0.0)
            offsets = [at]
            for number in range(self._size[axis]):
                borders = last.count(number) + first.count(number + 1)
                at += pitch[axis] + border[axis] * borders
                offsets.append(at)
            self._at.append(offsets)

    def _pads(self, axis: int) -> tuple[float, float]:
        """Return the room in a frame before the first cell and after the last of the drawing."""
        downwards = (axis == 1) is self._wide
        if downwards:
            return TITLE, PAD
        return (PAD, PAD) if self._wide else (PAD - AIR, PAD)

    def middle(self, cell: Cell) -> tuple[float, float]:
        """Return the middle of an element in a cell."""
        along, across = self._at[0][cell[0]], self._at[1][cell[1]]
        x, y = (along, across) if self._wide else (across, along)
        return x + BOX[0] / 2, y + BOX[1] / 2

    def frame(self, key: str) -> tuple[float, float, float, float]:
        """Return the first and the last x, then y, of the border of a Xen host."""
        rect = self._rects[key]
        columns, rows = self._span(key, 0), self._span(key, 1)
        (left, right), (top, bottom) = (columns, rows) if self._wide else (rows, columns)
        if not self._wide and rect[3] == self._size[1]:
            right = max(right, TALL_WIDTH - AIR)  # the names of hops stand there
        return left, right, top, bottom

    def _span(self, key: str, axis: int) -> tuple[float, float]:
        first, last = self._rects[key][axis], self._rects[key][axis + 2]
        offsets, (before, behind) = self._at[axis], self._pads(axis)
        downwards = (axis == 1) is self._wide
        size = BOX[1] if downwards else BOX[0]
        start, end = offsets[first] - before, offsets[last] + size + behind
        if first and (key, axis, 0) in self._crossed:
            gap = offsets[first] - offsets[first - 1] - size
            start = offsets[first] - max(gap / 2 - AIR / 2, before)
        if last < self._size[axis] and (key, axis, 2) in self._crossed:
            gap = offsets[last + 1] - offsets[last] - size
            end = offsets[last] + size + gap / 2 - AIR / 2
        return start, end


def _frame(
    element: Element, around: tuple[float, float, float, float], lines: Sequence[Line]
) -> Frame:
    left, right, top, bottom = around
    half = (left + right) / 2
    passed = [line.x1 for line in lines if min(line.y1, line.y2) < top < max(line.y1, line.y2)]
    at_start = not any(left <= x < half for x in passed)
    text_x = left + 12 if at_start else right - 12
    where: Literal["start", "end"] = "start" if at_start else "end"
    return Frame(element, left, top, right - left, bottom - top, text_x, where)


def _ends(near: Box, far: Box, shape: Shape) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return both ends of a line from one row to a later one.

    It leaves by the side where the later rows are, away from the lines along the row.
    """
    if shape == "wide":
        start = (near.x, near.y + near.height / 2)
    else:
        start = (near.x + near.width / 2, near.y)
    return start, _border(far, *start)


def _border(box: Box, x: float, y: float) -> tuple[float, float]:
    """Return where the line from the middle of `box` to a point leaves `box`."""
    dx, dy = x - box.x, y - box.y
    if not dx and not dy:
        return box.x, box.y
    scale = min(
        box.width / 2 / abs(dx) if dx else math.inf, box.height / 2 / abs(dy) if dy else math.inf
    )
    return box.x + dx * scale, box.y + dy * scale


def _spot(
    hop: str,
    numbers: Mapping[str, int],
    here: tuple[float, float],
    there: tuple[float, float],
    shape: Shape,
    *,
    below: bool,
) -> Spot:
    length = math.dist(here, there) or 1.0
    share = min(0.3, NEAR / length)
    x = here[0] + (there[0] - here[0]) * share
    y = here[1] + (there[1] - here[1]) * share
    dx, dy = there[0] - here[0], there[1] - here[1]
    if abs(dx) < abs(dy):
        return Spot(hop, numbers.get(hop, 0), x, y, x + 20, y + 4, "start")
    if abs(dy) > abs(dx) / 8:  # a slope: on the side where the line is not
        return Spot(
            hop, numbers.get(hop, 0), x, y, x + 12, y + (-6 if dx * dy > 0 else 14), "start"
        )
    aside = x + math.copysign(9, there[0] - here[0])  # away from the box
    if shape == "tall":
        aside = (here[0] + there[0]) / 2  # there is little room between two boxes
    return Spot(hop, numbers.get(hop, 0), x, y, aside, y + 29 if below else y - 25, "middle")
