"""An explanation as a page of plain text, at most 100 columns wide, for a terminal or a pager."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby

from labctl.experiments.explained.drawing import beside, draw
from labctl.experiments.explained.model import KERNEL, Arm, Cell, Stage, Story, Workaround
from labctl.experiments.explained.resolve import Drawn, Told

WIDTH = 100
INDENT = 2
GAP = 2
COLUMN = (WIDTH - INDENT - GAP) // 2
MOST_ARMS = 4
"""More arms than that do not stand side by side."""
PACKET = "What the first SYN or datagram must look like at each hop:"


def lines(told: Told) -> list[str]:
    """Return the page; lines without any indentation are headings."""
    own = told.explanation
    page = [f"{own.name}: {told.title}"]
    page += _section("HYPOTHESIS", _text(told.hypothesis))
    page += _section("MECHANISM", _text(" ".join(own.mechanism.split())))
    page += _section("TOPOLOGY", _drawings(told.ways))
    page += _section(f"HOP BY HOP (Linux {KERNEL})", _stages(told))
    page += _section("WHAT EACH ARM MUST SHOW", _arms(told))
    page += _section("AND BESIDE THAT", _points(own.evidence))
    page += _section("WHAT MENDS IT, AND WHAT THAT COSTS", _cures(own.workarounds, "costs: "))
    page += _section("WHAT DOES NOT", _cures(own.useless, ""))
    page += _section("LIMITS", _points(own.limits))
    page += _section("FUNCTIONS", _functions(told))
    page += _section("SEE ALSO", _more(told))
    return page


def _section(title: str, body: Sequence[str]) -> list[str]:
    return ["", title, *(f"{' ' * INDENT}{line}".rstrip() for line in body)] if body else []


def _text(text: str, width: int = WIDTH - INDENT, indent: int = 0) -> list[str]:
    return textwrap.wrap(
        text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )


def _points(texts: Iterable[str]) -> list[str]:
    return [line for text in texts for line in _text(f"- {text}", indent=2)]


def _cures(workarounds: Iterable[Workaround], word: str) -> list[str]:
    found = []
    for workaround in workarounds:
        found += _text(f"- {workaround.how}", indent=2)
        found += [f"    {line}" for line in _text(f"{word}{workaround.cost}", WIDTH - INDENT - 4)]
    return found


def _drawings(ways: Sequence[Drawn]) -> list[str]:
    found: list[str] = []
    unique = [way for number, way in enumerate(ways) if way not in ways[:number]]
    for first in range(0, len(unique), 2):
        pair = unique[first : first + 2]
        nested = [any(part.host for part in way.parts) for way in pair]
        # A Xen host's box has a line more above it; the same stage is to be in the same row.
        level = any(nested) and not all(nested)
        columns = []
        for way, inside in zip(pair, nested, strict=True):
            head = [_fit(way.file, COLUMN), ""] if way.parts else [way.file, *_problem(way)]
            blank = [""] if level and not inside and len(pair) == 2 else []
            columns.append([*head, *blank, *(draw(way.parts, COLUMN) if way.parts else [])])
        found += beside(columns[0], columns[1], GAP) if len(columns) == 2 else columns[0]
        found.append("")
    return [*found, "● where packets are observed; the management network is not drawn"]


def _problem(way: Drawn) -> list[str]:
    return ["", *_text(f"cannot be drawn: {way.problem}", COLUMN)]


def _stages(told: Told) -> list[str]:
    stories = told.explanation.stories
    width = COLUMN if len(stories) == 2 else WIDTH - INDENT
    found = _row([[story] for story in stories], width)
    found += _row([["─" * width] for _ in stories], width)
    for number, stage in enumerate(told.explanation.stages, 1):
        found.append(f"{number}. {stage.name}")
        found += _row([_cell(told, stage, story, width - 3) for story in stories], width)
        if stage.why:
            found += [f"   {line}" for line in _text(f"Why: {stage.why}", WIDTH - INDENT - 3)]
        found.append("")
    return found[:-1]


def _cell(told: Told, stage: Stage, story: Story, width: int) -> list[str]:
    cell: Cell = stage.cells[story]
    seen = told.seen_at(cell, story)
    facts = [("field", cell.field), ("beside", cell.note), ("seen at", seen)]
    found = _text(cell.does, width)
    for name, value in facts:
        if value:
            found += _text(f"{name:8} {value}", width, indent=9)
    return [f"   {line}" for line in found]


def _row(columns: Sequence[list[str]], width: int) -> list[str]:
    if len(columns) == 1:
        return columns[0]
    return beside([f"{line:{width}}" for line in columns[0]], columns[1], GAP)


def _arms(told: Told) -> list[str]:
    own = told.explanation
    found: list[str] = []
    for _, group in groupby(own.arms, key=own.way_of) if len(own.arms) <= MOST_ARMS else ():
        found += [*_table(told, list(group)), ""]
    found = [*_text(PACKET), "", *found]
    for arm in own.arms:
        outcome = f" SSH {arm.ssh}:" if arm.ssh else ""
        found += _text(f"{arm.name}: {arm.change}.{outcome} {arm.why}.", indent=2)
        if len(own.arms) > MOST_ARMS:
            found += [f"    {line}" for line in _runs(told, arm)]
    return found


def _table(told: Told, arms: list[Arm]) -> list[str]:
    """Return a table with a row a hop and a column an arm, SSH's fate in the last row."""
    states = [dict(told.states(arm)) for arm in arms]
    way = told.ways[told.explanation.way_of(arms[0])]
    if not all(states):
        return [f"states cannot be told without {way.file}"]
    rows = [["hop", *(arm.name for arm in arms)]]
    rows += [[point.name, *(one[point] for one in states)] for point in way.points]
    rows.append(["SSH", *(arm.ssh for arm in arms)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    text = ["  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
    rule = "  ".join("─" * width for width in widths)
    return [text[0], rule, *text[1:-1], rule, text[-1]]


def _runs(told: Told, arm: Arm) -> list[str]:
    """Return an arm's states in a line: the hops from and to, and the state between them."""
    runs = []
    for state, group in groupby(told.states(arm), key=lambda one: one[1]):
        hops = [point.name for point, _ in group]
        runs.append(f"{hops[0]} … {hops[-1]} {state}" if len(hops) > 1 else f"{hops[0]} {state}")
    return _text("; ".join(runs) or "the hops cannot be told here", WIDTH - INDENT - 4)


def _functions(told: Told) -> list[str]:
    found = []
    for file, group in groupby(told.functions(), key=lambda one: one.file):
        names = [f"{one.name}{'*' if one.inlined else ''}" for one in group]
        found += _text(f"{file}: {' '.join(names)}", indent=4)
    found.append("")
    return found + _text(
        "* inlined, or a macro: it cannot be probed itself in Debian's kernel, its caller can. The "
        "kernel of the machine that runs the lab has the functions of TAPs and bridges; it may be "
        "newer and name some of them otherwise.",
        indent=2,
    )


def _more(told: Told) -> list[str]:
    own = told.explanation
    found = [f"labctl experiment {own.name}"] if told.runnable else []
    return found + ([f"labctl explain {own.other}"] if own.other else [])


def _fit(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"
