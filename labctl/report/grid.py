"""Which cell of a grid each element of a drawing gets: the path in one row, the rest beside it.

Elements may belong to an enclosure, such as a Xen host. Its cells make a rectangle that nothing
else is in. Where a path leaves an enclosure and comes back, what is between lies further down.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

Cell = tuple[int, int]
"""Column along the path, row across it."""
Rect = tuple[int, int, int, int]
"""First column and row, last column and row."""
_Line = tuple[str, str, Cell, Cell]
"""Both ends of an edge, and their cells."""

_PATIENCE = 14
"""Elements beside the path that are moved about to find the clearest drawing."""
_TRIES = 24
"""Orders in which they are placed, for the best of what comes of it."""
_CANDIDATES = 40
_FORBIDDEN = 1000.0
_CROSSING = 3.0
_OVER = 6.0
_NEW_ROW = 1.5
_ABOVE = 0.5
_AREA = 0.2
_ROOM = 0.3
"""Half of what an element needs of its cell, so that a line beside it is clear of it."""


def cells(
    row: Sequence[str], edges: Sequence[tuple[str, str]], enclosures: Mapping[str, str]
) -> dict[str, Cell]:
    """Give every element of `enclosures` a cell; rows and columns begin with 0.

    `row` are the elements of the path in its order, `edges` say which are joined; `enclosures`
    names the enclosure of each element, empty for none.
    """
    stages = [list(keys) for keys in _stages(row, enclosures)]
    beside = [key for keys in stages for key in keys]
    orders = [stages]
    if len(beside) <= _PATIENCE:
        turned = [[*beside[n:], *beside[:n]] for n in range(len(beside))]
        every = itertools.islice(itertools.permutations(beside), _TRIES)
        orders += [[[key] for key in one] for one in (*turned, *every)]
    tried = [_tried(order, list(_path(row, enclosures)), edges, enclosures) for order in orders]
    grid = min(tried, key=_Grid.total)
    left = min((cell[0] for cell in grid.cells.values()), default=0)
    top = min((cell[1] for cell in grid.cells.values()), default=0)
    return {key: (column - left, row - top) for key, (column, row) in grid.cells.items()}


def _tried(
    order: Sequence[Sequence[str]],
    path: Sequence[tuple[str, Cell]],
    edges: Sequence[tuple[str, str]],
    enclosures: Mapping[str, str],
) -> _Grid:
    """Place what is beside the path in an order of stages, then move about what can be better."""
    grid = _Grid(edges, enclosures)
    grid.cells.update(path)
    for keys in order:
        waiting = list(keys)
        while waiting:
            key = max(waiting, key=grid.placed_beside)
            waiting.remove(key)
            grid.cells[key] = grid.best(key)
    moving = [key for keys in order for key in keys]
    if len(moving) <= _PATIENCE:
        for _ in moving:
            moved = [grid.improve(key) for key in moving]
            if not any(moved):
                break
    return grid


def rectangles(placed: Mapping[str, Cell], enclosures: Mapping[str, str]) -> dict[str, Rect]:
    """Return the rectangle of cells of each enclosure."""
    found: dict[str, Rect] = {}
    for key, (column, row) in placed.items():
        name = enclosures[key]
        if not name:
            continue
        one = found.get(name, (column, row, column, row))
        found[name] = (min(one[0], column), min(one[1], row), max(one[2], column), max(one[3], row))
    return found


def _path(row: Sequence[str], enclosures: Mapping[str, str]) -> Iterator[tuple[str, Cell]]:
    """Yield the path's elements in a row; what is between parts of an enclosure is further down."""
    places = [enclosures[key] for key in row]
    column = level = 0
    for number, key in enumerate(row):
        before, after = places[:number], places[number + 1 :]
        around = {name for name in before if name and name in after} - {places[number]}
        if number and len(around) == level:
            column += 1
        level = len(around)
        yield key, (column, level)


def _stages(row: Sequence[str], enclosures: Mapping[str, str]) -> Iterator[list[str]]:
    """Yield what is not on the path: inside its enclosures, outside of all, inside of others."""
    rest = [key for key in enclosures if key not in row]
    passed = {enclosures[key] for key in row} - {""}
    yield [key for key in rest if enclosures[key] in passed]
    yield [key for key in rest if not enclosures[key]]
    for name in dict.fromkeys(enclosures[key] for key in rest):
        if name and name not in passed:
            yield [key for key in rest if enclosures[key] == name]


class _Grid:
    """Elements in their cells, and what a cell would cost an element."""

    def __init__(self, edges: Sequence[tuple[str, str]], enclosures: Mapping[str, str]) -> None:
        self.cells: dict[str, Cell] = {}
        self._enclosures = enclosures
        self._edges = edges
        self._beside: dict[str, set[str]] = {key: set() for key in enclosures}
        for one, other in edges:
            self._beside[one].add(other)
            self._beside[other].add(one)

    def placed_beside(self, key: str) -> int:
        """Return how many neighbours of an element have a cell."""
        return len(self._beside[key] & self.cells.keys())

    def best(self, key: str) -> Cell:
        """Return the free cell that costs least."""
        return min(self._candidates(key), key=lambda cell: (self._cost(key, cell), cell))

    def improve(self, key: str) -> bool:
        """Move an element to where it costs least now; tell whether it moved."""
        here = self.cells[key]
        self.cells[key] = self.best(key)
        return self.cells[key] != here

    def _candidates(self, key: str) -> list[Cell]:
        taken = {cell for other, cell in self.cells.items() if other != key}
        columns = [cell[0] for cell in taken] or [0]
        rows = [cell[1] for cell in taken] or [0]
        # One row more than is taken on either side: there is always a cell that disturbs nothing.
        width = range(min(columns), max(max(columns), min(columns) + 3) + 1)
        free = [
            cell
            for cell in itertools.product(width, range(min(rows) - 1, max(rows) + 2))
            if cell not in taken
        ]
        near = [self.cells[other] for other in self._beside[key] if other in self.cells]
        if near and len(free) > _CANDIDATES:
            column = sum(cell[0] for cell in near) / len(near)
            row = sum(cell[1] for cell in near) / len(near)
            free.sort(key=lambda cell: abs(cell[0] - column) + abs(cell[1] - row))
            last = [cell for cell in free[_CANDIDATES:] if cell[1] > max(rows)]
            free = free[:_CANDIDATES] + last
        return free

    def total(self) -> float:
        """Return what the whole costs."""
        found = self._frames(self.cells) + self._extent(self.cells)
        lines = self._lines(self.cells)
        for number, (one, other, start, end) in enumerate(lines):
            found += abs(start[0] - end[0]) + abs(start[1] - end[1])
            for name, at in self.cells.items():
                found += _OVER * (name not in (one, other) and _over(start, end, at))
            for line in lines[number + 1 :]:
                found += _CROSSING * _meet(lines[number], line)
        return found

    def _cost(self, key: str, cell: Cell) -> float:
        """Return what `total` would have of an element if it were in a cell."""
        placed = {**self.cells, key: cell}
        found = self._frames(placed) + self._extent(placed)
        lines = self._lines(placed)
        own = [line for line in lines if key in line[:2]]
        for one, other, start, end in own:
            found += abs(start[0] - end[0]) + abs(start[1] - end[1])
            for name, at in placed.items():
                found += _OVER * (name not in (one, other) and _over(start, end, at))
        for line in lines:
            if key not in line[:2]:
                found += _OVER * _over(line[2], line[3], cell)
                found += sum(_CROSSING for mine in own if _meet(line, mine))
        return found

    def _lines(self, placed: Mapping[str, Cell]) -> list[_Line]:
        return [
            (one, other, placed[one], placed[other])
            for one, other in self._edges
            if one in placed and other in placed
        ]

    @staticmethod
    def _extent(placed: Mapping[str, Cell]) -> float:
        rows = [row for _, row in placed.values()]
        return _NEW_ROW * (max(rows) - min(rows)) - _ABOVE * min(rows) if rows else 0.0

    def _frames(self, placed: Mapping[str, Cell]) -> float:
        found = 0.0
        rects = rectangles(placed, self._enclosures)
        for name, (left, top, right, bottom) in rects.items():
            found += _AREA * (right - left + 1) * (bottom - top + 1)
            for key, (column, row) in placed.items():
                inside = left <= column <= right and top <= row <= bottom
                found += _FORBIDDEN * (inside and self._enclosures[key] != name)
        for one, other in itertools.combinations(rects.values(), 2):
            apart = one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
            found += 0.0 if apart else _FORBIDDEN
        return found


def _meet(line: _Line, other: _Line) -> bool:
    """Tell whether two lines cross that do not begin or end at the same element."""
    return not {*line[:2]} & {*other[:2]} and _cross(line[2], line[3], other[2], other[3])


def _side(start: Cell, end: Cell, x: float, y: float) -> float:
    return (end[0] - start[0]) * (y - start[1]) - (end[1] - start[1]) * (x - start[0])


def _over(start: Cell, end: Cell, cell: Cell) -> bool:
    """Tell whether the line between two cells passes an element in `cell`."""
    x, y = cell
    if not (min(start[0], end[0]) - _ROOM < x < max(start[0], end[0]) + _ROOM):
        return False
    if not (min(start[1], end[1]) - _ROOM < y < max(start[1], end[1]) + _ROOM):
        return False
    sides = [_side(start, end, x + dx, y + dy) for dx in (-_ROOM, _ROOM) for dy in (-_ROOM, _ROOM)]
    return min(sides) <= 0 <= max(sides)


def _cross(start: Cell, end: Cell, begin: Cell, finish: Cell) -> bool:
    """Tell whether two lines have a point in common."""
    for low in (0, 1):
        one, other = sorted((start[low], end[low])), sorted((begin[low], finish[low]))
        if one[1] < other[0] or other[1] < one[0]:
            return False
    return (
        _side(start, end, *begin) * _side(start, end, *finish) <= 0
        and _side(begin, finish, *start) * _side(begin, finish, *end) <= 0
    )
