"""Draw the picture of the README from a record: `python package/picture.py RUN FILE`.

One packet on its way through the router that loses its metadata, and through one that keeps it, hop
by hop, as `labctl report` compares them. `make picture` runs the experiment first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from labctl.report import comparison, gather
from labctl.report.comparison import Cell, Pair, Side
from labctl.results import store

WIDTH, LEFT, STEP, TOP = 860, 120, 94, 78
COLOURS = {"flag": "#2f7d4f", "valid": "#2f7d4f", "lost": "#b3261e", "bad": "#b3261e"}
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.name { font-weight: 600 } .small { font-size: 11px; fill: #57606a }
.mono { font: 12px ui-monospace, monospace }
.white { fill: #fff; font-weight: 700; font-size: 11px; text-anchor: middle }
.middle { text-anchor: middle }
"""


def draw(pair: Pair) -> str:
    """Return two rows of hops as SVG, with what the kernel knew of the packet at each."""
    assert pair.right is not None
    height = TOP + 2 * 96 + 44
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(pair.statement)}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff" stroke="#d0d7de"/>',
    ]
    for at, row in enumerate(pair.rows):
        out += [
            _text(_x(at), 30, row.hop, "mono middle"),
            _text(_x(at), 46, row.where.replace("host's end of ", "host, "), "small middle"),
        ]
    drawn: tuple[tuple[Side, Sequence[Cell | None]], ...] = (
        (pair.right, [row.right for row in pair.rows]),
        (pair.left, [row.left for row in pair.rows]),
    )
    for number, (side, cells) in enumerate(drawn):
        y = TOP + number * 96
        answer = next((one for one in side.told if one.startswith("SSH")), "").partition(";")[0]
        out += [
            _text(16, y + 18, side.name.partition("/")[0], "name"),
            _text(16, y + 35, f"{pair.kind}, IPv{side.name[-1]}", "small"),
            f'<line x1="{_x(0)}" x2="{_x(len(cells) - 1)}" y1="{y + 18}" y2="{y + 18}" '
            'stroke="#afb8c1" stroke-width="2"/>',
        ]
        for at, cell in enumerate(cells):
            out += _cell(_x(at), y + 18, cell)
        out.append(_text(_x(0) - 20, y + 70, answer, "name"))
    out.append(_text(16, height - 16, pair.statement, "small"))
    return "\n".join([*out, "</svg>", ""])


def _x(at: int) -> int:
    return LEFT + 30 + at * STEP


def _cell(x: int, y: int, cell: Cell | None) -> list[str]:
    if cell is None:
        return []
    colour = COLOURS.get(cell.sign, "#6e7781")
    letter = {"flag": "flag", "lost": "none"}.get(cell.sign, cell.sign)
    made = [
        f'<rect x="{x - 24}" y="{y - 12}" width="48" height="24" rx="5" fill="{colour}"/>',
        _text(x, y + 4, letter, "white"),
        _text(x, y + 29, cell.field, "mono middle"),
    ]
    if cell.faulty:
        made.append(_text(x, y - 20, cell.happened, "name middle"))
    return made


def _text(x: int, y: int, words: str, kind: str) -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(words)}</text>'


def main() -> None:
    """Draw the most telling comparison of a run."""
    run, file = sys.argv[1], Path(sys.argv[2])
    found = store.load(run)
    report = gather.from_record(store.find(run).path, found)
    told = [one for one in comparison.pairs(report) if one.right is not None]
    if not told:
        sys.exit(f"picture: {run} has nothing to compare\n  run: labctl experiment router-hop")
    file.write_text(draw(told[0]))
    print(f"picture: {file} of run {found.id}")


if __name__ == "__main__":
    main()
