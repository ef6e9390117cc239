"""The topology as a drawing: where boxes, lines and hops go, wide for a desk, tall for a phone.

Plain numbers in SVG's user units; the page's template makes the elements. The longest observed
path is the main row, everything else lies beside it. A Xen host is a frame around what is in it;
a network that is on both sides of its border is two bridges, joined by the uplink.

Boxes are as large as their text, and between them is as much room as the names of hops need: what
does not fit is placed once more with more of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from labctl.report import grid
from labctl.report.chart import Edge, Element, Map
from labctl.report.grid import Cell, Rect
from labctl.report.labels import Label, Labels, Segment, Wanted, sign_box, text_box
from labctl.report.text_width import cut, lines, width
from labctl.topology.points import ObservationPoint

BOX = (104.0, 66.0)
"""No box of a node is smaller, none of a network narrower."""
NETWORK = 48.0
"""No network is lower."""
TEXT = 150.0
"""As wide is a line in a box at most."""
NAME, KIND, HARM, TITLE_SIZE = 17.0, 12.0, 13.0, 15.0
"""Sizes of letters, as in the page's style sheet."""
NAME_PITCH, KIND_PITCH, THIRD = 20.0, 15.0, 17.0
NEAR = 39.0
"""From a box's border to the middle of the hop's sign."""
GAP = {"wide": (142.0, 84.0), "tall": (78.0, 106.0)}
"""Between columns and between rows, at least."""
BORDER = {"wide": (46.0, 50.0), "tall": (58.0, 34.0)}
"""What the border of a frame adds between two columns, two rows."""
MARGIN = {"wide": (14.0, 26.0), "tall": (14.0, 14.0)}
TALL_WIDTH = 346.0
PAD = 18.0
"""From an element to the border of the frame, where nothing lies beyond."""
TITLE = 34.0
"""The same at the top, where the frame's name stands."""
AIR = 6.0
"""From the border of a frame to the outermost of the drawing."""
TIMES, GROWTH = 12, 1.12
"""How often what does not fit is tried again, each time with so much more room between boxes."""
MANY = 24
"""Elements from which on it is tried less often, because each time takes long."""

Shape = Literal["wide", "tall"]


@dataclass(frozen=True)
class Text:
    """One line in a box; its middle and its baseline."""

    words: str
    style: Literal["name", "kind", "label"]
    x: float
    y: float


@dataclass(frozen=True)
class Box:
    """A placed element; `x` and `y` are its middle."""

    element: Element
    x: float
    y: float
    width: float
    height: float
    texts: tuple[Text, ...] = ()
    third: float = 0.0
    """Baseline of the line for what harmed a packet there, in place of the label."""
    slack: float = 0.0
    """How much lower the text stands where that line is empty."""


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
    name: str
    kind: str
    """What is said of it behind its name, as far as there is room."""


@dataclass(frozen=True)
class Line:
    """A placed edge, from border to border."""

    edge: Edge
    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def segment(self) -> Segment:
        """Both ends."""
        return self.x1, self.y1, self.x2, self.y2


@dataclass(frozen=True)
class Spot:
    """A placed hop and where its name stands."""

    hop: str
    number: int
    """Its place on the main path, from 1; 0 where it is not on it."""
    x: float
    y: float
    label: Label | None
    """None where there is no room for it: the page tells the name beside."""


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
    return _placed(drawn, tuple(hop.name for hop in path), shape)


@lru_cache(maxsize=64)
def _placed(drawn: Map, path: tuple[str, ...], shape: Shape) -> Drawing:
    numbers = {hop: number for number, hop in enumerate(path, start=1)}
    sizes = {element.key: _size(element) for element in drawn.elements}
    times = TIMES if len(drawn.elements) <= MANY else 3
    room = 1.0
    for attempt in range(times):
        found = _attempt(drawn, sizes, numbers, shape, room)
        if all(spot.label for spot in found.spots if spot.number or attempt < TIMES // 3):
            return found
        room *= GROWTH
    return found


def _attempt(
    drawn: Map,
    sizes: Mapping[str, tuple[float, float]],
    numbers: Mapping[str, int],
    shape: Shape,
    room: float,
) -> Drawing:
    layout = _Layout(drawn, sizes, shape, room)
    boxes = {e.key: _box(e, *layout.middle(e.key), *sizes[e.key]) for e in drawn.elements}
    lines_ = tuple(_line(edge, boxes, layout.cells, shape) for edge in drawn.edges)
    frames = [_frame(frame, layout.frame(frame.key), lines_) for frame in drawn.frames]
    wanted = []
    for line in lines_:
        start, end = (line.x1, line.y1), (line.x2, line.y2)
        wanted.append(_wanted(line.edge.inside, numbers, start, end, below=True))
        wanted.append(_wanted(line.edge.outside, numbers, end, start, below=False))
    taken = [
        (b.x - b.width / 2, b.y - b.height / 2, b.x + b.width / 2, b.y + b.height / 2)
        for b in boxes.values()
    ]
    taken += [sign_box(one.x, one.y) for one in wanted]
    taken += [_title_box(frame) for frame in frames]
    drawn_lines = [line.segment for line in lines_]
    for one in frames:
        left, top, right, bottom = one.x, one.y, one.x + one.width, one.y + one.height
        drawn_lines += [(left, top, left, bottom), (right, top, right, bottom)]
        drawn_lines += [(left, top, right, top), (left, bottom, right, bottom)]
    labels = Labels(taken, drawn_lines)
    # Those on the path first: where there is little room, it is theirs.
    order = sorted(wanted, key=lambda one: (not one.number, one.number))
    named = {id(one): labels.place(one) for one in order}
    spots = tuple(Spot(one.name, one.number, one.x, one.y, named[id(one)]) for one in wanted)
    covered = [*taken, *(spot.label.box for spot in spots if spot.label)]
    right, bottom = max(box[2] for box in covered), max(box[3] for box in covered)
    if shape == "tall":
        right = max(right, TALL_WIDTH - MARGIN[shape][0])
        # The names of hops stand beside the last column.
        frames = [
            replace(one, width=max(one.width, right - one.x))
            if layout.is_last(one.element.key)
            else one
            for one in frames
        ]
    across, down = MARGIN[shape]
    wide = max([right + across, *(frame.x + frame.width + AIR for frame in frames)])
    high = max([bottom + down, *(frame.y + frame.height + AIR for frame in frames)])
    return Drawing(shape, wide, high, tuple(frames), tuple(boxes.values()), lines_, spots)


def _size(element: Element) -> tuple[float, float]:
    """Return how large a box its text needs."""
    names, kinds = _words(element)
    widest = [width(line, NAME, bold=True) for line in names]
    widest += [width(line, KIND) for line in (*kinds, _label(element))]
    high = NAME_PITCH * len(names) + KIND_PITCH * len(kinds)
    if element.kind == "network":
        high += KIND_PITCH if element.labels else 0.0
        return max(BOX[0], max(widest) + 32), max(NETWORK, high + 14)
    harm = width("✗ flag lost", HARM, bold=True)
    return max(BOX[0], max(*widest, harm) + 20), max(BOX[1], high + THIRD + 14)


def _words(element: Element) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (
        lines(element.name, NAME, TEXT, 3, bold=True),
        lines(element.what, KIND, TEXT, 2),
    )


def _label(element: Element) -> str:
    return cut(element.labels, KIND, TEXT) if element.labels else ""


def _box(element: Element, x: float, y: float, wide: float, high: float) -> Box:
    names, kinds = _words(element)
    network = element.kind == "network"
    third = (KIND_PITCH if element.labels else 0.0) if network else THIRD
    at = y - (NAME_PITCH * len(names) + KIND_PITCH * len(kinds) + third) / 2
    texts = []
    for line in names:
        texts.append(Text(line, "name", x, at + NAME_PITCH * 0.78))
        at += NAME_PITCH
    for line in kinds:
        texts.append(Text(line, "kind", x, at + KIND_PITCH * 0.78))
        at += KIND_PITCH
    if element.labels:
        texts.append(Text(_label(element), "label", x, at + KIND_PITCH * 0.78))
    slack = 0.0 if network or element.labels else third / 2
    return Box(element, x, y, wide, high, tuple(texts), at + third * 0.8, slack)


def _line(edge: Edge, boxes: Mapping[str, Box], cells: Mapping[str, Cell], shape: Shape) -> Line:
    owner, network = boxes[edge.owner], boxes[edge.network]
    start, end = _ends(owner, network, shape)
    if cells[edge.owner][1] > cells[edge.network][1]:
        end, start = _ends(network, owner, shape)
    elif cells[edge.owner][1] == cells[edge.network][1]:
        start = _border(owner, network.x, network.y)
        end = _border(network, owner.x, owner.y)
    return Line(edge, *start, *end)


@lru_cache(maxsize=64)
def _cells(
    row: tuple[str, ...], pairs: tuple[tuple[str, str], ...], hosts: tuple[tuple[str, str], ...]
) -> tuple[dict[str, Cell], dict[str, Rect]]:
    """Return where elements are, by their keys alone: their texts change nothing."""
    enclosures = dict(hosts)
    placed = grid.cells(row, pairs, enclosures)
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

    def __init__(
        self, drawn: Map, sizes: Mapping[str, tuple[float, float]], shape: Shape, room: float
    ) -> None:
        pairs = tuple((edge.owner, edge.network) for edge in drawn.edges)
        hosts = tuple((element.key, element.host) for element in drawn.elements)
        self.cells, rects = _cells(drawn.row, pairs, hosts)
        self._wide = shape == "wide"
        crossed = _crossed(drawn, self.cells, rects)
        if self._wide:
            self._at, self._rects, self._crossed = dict(self.cells), dict(rects), crossed
        else:  # columns and rows change places
            self._at = {key: (cell[1], cell[0]) for key, cell in self.cells.items()}
            self._rects = {key: (r[1], r[0], r[3], r[2]) for key, r in rects.items()}
            self._crossed = {(key, 1 - axis, end) for key, axis, end in crossed}
            # The names of hops stand there, be it crossed or not.
            self._crossed |= {(key, 0, 2) for key in rects}
        self._count = tuple(max(cell[axis] for cell in self._at.values()) for axis in (0, 1))
        self._sizes: list[list[float]] = []
        self._starts: list[list[float]] = []
        for axis in (0, 1):
            self._tracks(axis, sizes, GAP[shape][axis] * room, shape)

    def _tracks(
        self, axis: int, sizes: Mapping[str, tuple[float, float]], gap: float, shape: Shape
    ) -> None:
        """Lay out the columns, or the rows: each as large as the largest in it."""
        count = self._count[axis]
        large = [BOX[axis]] * (count + 1)
        for key, cell in self._at.items():
            large[cell[axis]] = max(large[cell[axis]], sizes[key][axis])
        crossed = [one for one in self._crossed if one[1] == axis]
        first = [self._rects[key][axis] for key, _, end in crossed if end == 0]
        last = [self._rects[key][axis + 2] for key, _, end in crossed if end == 2]
        framed = any(rect[axis] == 0 for rect in self._rects.values())
        at = max(MARGIN[shape][axis], AIR + self._pads(axis)[0] if framed else 0.0)
        starts = [at]
        for number in range(count):
            borders = last.count(number) + first.count(number + 1)
            at += large[number] + gap + BORDER[shape][axis] * borders
            starts.append(at)
        self._sizes.append(large)
        self._starts.append(starts)

    def _pads(self, axis: int) -> tuple[float, float]:
        """Return the room in a frame before the first cell and after the last of the drawing."""
        if axis == 1:
            return TITLE, PAD
        return (PAD, PAD) if self._wide else (PAD - AIR, PAD)

    def middle(self, key: str) -> tuple[float, float]:
        """Return the middle of an element."""
        x, y = (
            self._starts[axis][self._at[key][axis]] + self._sizes[axis][self._at[key][axis]] / 2
            for axis in (0, 1)
        )
        return x, y

    def frame(self, key: str) -> tuple[float, float, float, float]:
        """Return the first and the last x, then y, of the border of a Xen host."""
        return *self._span(key, 0), *self._span(key, 1)

    def is_last(self, key: str) -> bool:
        """Tell whether a frame has the last column."""
        return self._rects[key][2] == self._count[0]

    def _span(self, key: str, axis: int) -> tuple[float, float]:
        first, last = self._rects[key][axis], self._rects[key][axis + 2]
        starts, sizes, (before, behind) = self._starts[axis], self._sizes[axis], self._pads(axis)
        start, end = starts[first] - before, starts[last] + sizes[last] + behind
        if first and (key, axis, 0) in self._crossed:
            gap = starts[first] - starts[first - 1] - sizes[first - 1]
            start = starts[first] - max(gap / 2 - AIR / 2, before)
        if last < self._count[axis] and (key, axis, 2) in self._crossed:
            gap = starts[last + 1] - starts[last] - sizes[last]
            end = starts[last] + sizes[last] + gap / 2 - AIR / 2
        return start, end


def _frame(
    element: Element, around: tuple[float, float, float, float], lines_: Sequence[Line]
) -> Frame:
    left, right, top, bottom = around
    half = (left + right) / 2
    passed = [line.x1 for line in lines_ if min(line.y1, line.y2) < top < max(line.y1, line.y2)]
    at_start = not any(left <= x < half for x in passed)
    text_x = left + 12 if at_start else right - 12
    where: Literal["start", "end"] = "start" if at_start else "end"
    room = right - left - 24
    if any(half <= x <= right for x in passed) or not at_start:
        room = room / 2  # a line passes the other half
    name = cut(element.name, TITLE_SIZE, room, bold=True)
    room -= width(f"{name} ", TITLE_SIZE, bold=True)
    said = [f"({element.what}, {element.labels})"] if element.labels else []
    said.append(f"({element.what})")
    kind = next((words for words in said if width(words, TITLE_SIZE) <= room), "")
    return Frame(element, left, top, right - left, bottom - top, text_x, where, name, kind)


def _title_box(frame: Frame) -> tuple[float, float, float, float]:
    words = f"{frame.name} {frame.kind}"
    return text_box(words, TITLE_SIZE, frame.text_x, frame.y + 21, frame.anchor, bold=True)


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


def _wanted(
    hop: str,
    numbers: Mapping[str, int],
    here: tuple[float, float],
    there: tuple[float, float],
    *,
    below: bool,
) -> Wanted:
    length = math.dist(here, there) or 1.0
    share = min(0.3, NEAR / length)
    x = here[0] + (there[0] - here[0]) * share
    y = here[1] + (there[1] - here[1]) * share
    # What is left of the line up to the other hop's sign.
    rest = (there[0] - here[0]) * (1 - 2 * share), (there[1] - here[1]) * (1 - 2 * share)
    return Wanted(hop, numbers.get(hop, 0), x, y, rest, below)
