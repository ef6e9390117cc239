"""The topology as a drawing: where boxes, lines and hops go, wide for a desk, tall for a phone.

Plain numbers in SVG's user units; the page's template makes the elements. The longest observed
path is the main row, everything else hangs below it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from labctl.lab.path import Hop
from labctl.topology.model import Topology

BOX = (104.0, 66.0)
NEAR = 39.0
"""From a box's border to the middle of the hop's sign."""
PITCH = {"wide": (246.0, 150.0), "tall": (182.0, 172.0)}
"""Along the main row, and from row to row."""
MARGIN = {"wide": (14.0, 26.0), "tall": (14.0, 14.0)}
TALL_WIDTH = 346.0

Shape = Literal["wide", "tall"]


@dataclass(frozen=True)
class Element:
    """A node, a router or a network."""

    key: str
    kind: Literal["node", "router", "network"]
    name: str
    labels: str = ""


@dataclass(frozen=True)
class Edge:
    """An interface: `owner` is plugged into `network`; its two hops, inside and outside."""

    owner: str
    network: str
    inside: str
    outside: str
    labels: str = ""


@dataclass(frozen=True)
class Map:
    """What is to be drawn, in the order of the main row."""

    elements: tuple[Element, ...]
    edges: tuple[Edge, ...]
    row: tuple[str, ...]
    """Keys of the elements in the main row."""


@dataclass(frozen=True)
class Box:
    """A placed element; `x` and `y` are its middle."""

    element: Element
    x: float
    y: float
    width: float
    height: float


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
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    spots: tuple[Spot, ...]


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in labels.items())


def of_topology(topology: Topology, path: Sequence[Hop]) -> Map:
    """Return the map of a topology whose main row is what `path` passes."""
    elements = {}
    edges = []
    for node in topology.nodes.values():
        elements[node.name] = Element(node.name, "node", node.name, _labels(node.labels))
        for nic in node.interfaces:
            inside = f"{node.name}:{nic.name}"
            edges.append(
                Edge(node.name, f"net {nic.network}", inside, nic.tap, _labels(nic.labels))
            )
    for router in topology.routers.values():
        elements[router.name] = Element(router.name, "router", router.name, _labels(router.labels))
        for port in router.interfaces:
            inside = f"{router.name}:{port.name}"
            edges.append(
                Edge(router.name, f"net {port.network}", inside, port.peer, _labels(port.labels))
            )
    for network in topology.networks.values():
        key = f"net {network.name}"
        elements[key] = Element(key, "network", network.name, _labels(network.labels))
    edges = [edge for edge in edges if edge.network in elements]
    row = _row(path, {hop: e for e in edges for hop in (e.inside, e.outside)})
    return Map(tuple(elements.values()), tuple(edges), row or tuple(elements)[:1])


def of_path(path: Sequence[Hop]) -> Map:
    """Return the map of what a path alone tells: its nodes and routers, bridges between them."""
    elements: dict[str, Element] = {}
    edges: list[Edge] = []
    inside = [(number, hop) for number, hop in enumerate(path) if hop.place != "host"]
    for _, hop in inside:
        kind: Literal["node", "router"] = "node" if hop.place == "guest" else "router"
        elements.setdefault(hop.owner, Element(hop.owner, kind, hop.owner))
    for (number, hop), (later, following) in itertools.pairwise(inside):
        if hop.owner == following.owner or later - number < 3:
            continue
        key = f"net {number}"
        elements[key] = Element(key, "network", "bridge")
        edges.append(Edge(hop.owner, key, hop.name, path[number + 1].name))
        edges.append(Edge(following.owner, key, following.name, path[later - 1].name))
    by_hop = {hop: edge for edge in edges for hop in (edge.inside, edge.outside)}
    row = _row(path, by_hop)
    return Map(tuple(elements.values()), tuple(edges), row)


def _row(path: Sequence[Hop], edges: Mapping[str, Edge]) -> tuple[str, ...]:
    row: list[str] = []
    for hop in path:
        edge = edges.get(hop.name)
        if edge is None:
            continue
        key = edge.network if hop.place == "host" else edge.owner
        if key not in row:
            row.append(key)
    return tuple(row)


def place(drawn: Map, path: Sequence[Hop], shape: Shape) -> Drawing:
    """Place everything of a map; hops of `path` are numbered in its order."""
    along, across = PITCH[shape]
    left, top = MARGIN[shape]
    cells = _cells(drawn)
    boxes: dict[str, Box] = {}
    for element in drawn.elements:
        column, row = cells[element.key]
        width, height = BOX if element.kind != "network" else (BOX[0], BOX[1] - 18)
        x, y = (column * along, row * across) if shape == "wide" else (row * across, column * along)
        x, y = x + left + BOX[0] / 2, y + top + BOX[1] / 2
        boxes[element.key] = Box(element, x, y, width, height)
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
    width = max(box.x + box.width / 2 for box in boxes.values()) + left
    height = max(box.y + box.height / 2 for box in boxes.values()) + top
    if shape == "tall":
        width = max(width, TALL_WIDTH)
    return Drawing(shape, width, height, tuple(boxes.values()), tuple(lines), tuple(spots))


def _cells(drawn: Map) -> dict[str, tuple[int, int]]:
    """Give every element a column and a row; one row for the path, free places below it."""
    cells = {key: (column, 0) for column, key in enumerate(drawn.row)}
    beside: dict[str, set[str]] = {element.key: set() for element in drawn.elements}
    for edge in drawn.edges:
        beside[edge.owner].add(edge.network)
        beside[edge.network].add(edge.owner)
    waiting = [element.key for element in drawn.elements if element.key not in cells]
    while waiting:
        near = [key for key in waiting if beside[key] & cells.keys()]
        key = max(near, key=lambda one: len(beside[one] & cells.keys())) if near else waiting[0]
        waiting.remove(key)
        columns = [cells[other][0] for other in beside[key] if other in cells]
        column = round(sum(columns) / len(columns)) if columns else 0
        cells[key] = (column, _free(cells.values(), column))
    return cells


def _free(taken: Iterable[tuple[int, int]], column: int) -> int:
    rows = {row for other, row in taken if other == column}
    return next(row for row in range(1, len(rows) + 2) if row not in rows)


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
    if shape == "tall" or abs(there[0] - here[0]) < abs(there[1] - here[1]):
        return Spot(hop, numbers.get(hop, 0), x, y, x + 20, y + 4, "start")
    aside = x + math.copysign(9, there[0] - here[0])  # away from the box
    return Spot(hop, numbers.get(hop, 0), x, y, aside, y + 29 if below else y - 25, "middle")
