"""A topology's graph as SVG: networks are horizontal lines, nodes and routers hang between them.

Text is set in a monospaced font, whose width is known beforehand, so nothing overlaps: each element
has a column as wide as its longest text, and each of its interfaces a track of its own in it.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from xml.sax.saxutils import escape

from labctl.report.graph import Element, Graph, Link, title

LETTER = 7.3
"""Of a monospaced font of 12 units, whose letters are at most 0.605 em wide; and a little air."""
LINE = 16.0
GAP = 28.0
BOX_HEIGHT = 44.0
MARGIN = 20.0
_STATES = {"running": "#1a7f37", "": "#57606a"}
_BAD = "#cf222e"
_STYLE = (
    "text{font:12px ui-monospace,monospace;fill:#1f2328}"
    ".dim{fill:#57606a}.net{stroke:#0969da;stroke-width:3}.link{stroke:#57606a}"
    ".box{fill:#f6f8fa;stroke-width:1.5}.back{fill:#fff}"
)


def width_of(words: str) -> float:
    """Return how wide a text is; letters of East Asia are twice as wide (UAX 11)."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in words)
    return (len(words) + wide) * LETTER


@dataclass
class _Column:
    """Where an element and its interfaces are."""

    element: Element
    links: tuple[Link, ...]
    row: int
    """The network that it hangs below; -1 for an element that is plugged into nothing."""
    x: float = 0.0
    tracks: tuple[float, ...] = ()
    """Where each interface's line is, from the column's left."""
    width: float = 0.0


def draw(graph: Graph) -> str:
    """Return the drawing as an SVG document."""
    rows = {one.name: at for at, one in enumerate(graph.networks)}
    columns = [_column(one, graph.links_of(one.name), rows) for one in graph.owners]
    columns.sort(key=lambda one: one.row)
    x = MARGIN + max((width_of(_about(one)) for one in graph.networks), default=0.0) + GAP
    for column in columns:
        column.x = x
        x += column.width + GAP
    lines = max((len(link.addresses) for link in graph.links), default=0) + 1
    room = 2 * (lines * LINE + 18.0) + BOX_HEIGHT
    total = (x, MARGIN + len(rows) * room + (0.0 if rows else room) + MARGIN)
    parts = [_network(one, MARGIN + at * room, total[0]) for at, one in enumerate(graph.networks)]
    for column in columns:
        parts += _drawn(column, rows, room, lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {total[0]:.0f} '
        f'{total[1]:.0f}" width="{total[0]:.0f}" height="{total[1]:.0f}">\n'
        f"<title>{escape(graph.name)}</title>\n<style>{_STYLE}</style>\n"
        f'<rect class="back" width="100%" height="100%"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _about(network: Element) -> str:
    return " ".join((network.name, *network.details))


def _column(element: Element, links: tuple[Link, ...], rows: dict[str, int]) -> _Column:
    links = tuple(sorted(links, key=lambda link: rows[link.network]))
    tracks, at = [], 14.0
    for link in links:
        tracks.append(at)
        at += 6.0 + max(width_of(words) for words in (link.name, *link.addresses)) + 14.0
    own = max(width_of(element.name), width_of(title(element))) + 16.0
    row = rows[links[0].network] if links else -1
    return _Column(element, links, max(row, 0), 0.0, tuple(tracks), max(own, at))


def _network(network: Element, y: float, right: float) -> str:
    return (
        f'<line class="net" x1="{MARGIN}" y1="{y:.1f}" x2="{right - MARGIN:.1f}" y2="{y:.1f}"/>'
        f'<text x="{MARGIN}" y="{y + LINE:.1f}">{escape(_about(network))}</text>'
    )


def _drawn(column: _Column, rows: dict[str, int], room: float, lines: int) -> list[str]:
    top = MARGIN + column.row * room + lines * LINE + 18.0
    bottom = top + BOX_HEIGHT
    parts = []
    for track, link in zip(column.tracks, column.links, strict=True):
        x, y = column.x + track, MARGIN + rows[link.network] * room
        start = top if y < top else bottom
        parts.append(
            f'<line class="link" x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{start:.1f}"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#0969da"/>'
        )
        # Beside the line, at its network: above that where the line comes from above.
        first = y + LINE if y < top else y - lines * LINE + 4.0
        for at, words in enumerate((link.name, *link.addresses)):
            dim = ' class="dim"' if at else ""
            parts.append(
                f'<text{dim} x="{x + 6:.1f}" y="{first + at * LINE:.1f}">{escape(words)}</text>'
            )
    element = column.element
    colour = _STATES.get(element.state, _BAD)
    corner = 4 if element.what == "node" else 14
    parts.append(
        f'<rect class="box" stroke="{colour}" x="{column.x:.1f}" y="{top:.1f}" rx="{corner}" '
        f'width="{column.width:.1f}" height="{BOX_HEIGHT}"/>'
        f'<text x="{column.x + 8:.1f}" y="{top + 18:.1f}" font-weight="bold">'
        f"{escape(element.name)}</text>"
        f'<text class="dim" x="{column.x + 8:.1f}" y="{top + 35:.1f}">'
        f"{escape(title(element))}</text>"
    )
    return parts
