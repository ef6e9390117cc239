"""The page: a report as one HTML file that needs nothing else, from any disk, in any browser.

What stands in a record is another's text: everything is escaped, and the page's own policy lets
nothing be loaded or run, whatever it contains.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from labctl.capture.journey import HARM, Journey
from labctl.report import drawing, finding, offloads, pairs
from labctl.report.drawing import Drawing
from labctl.report.gather import KINDS, Arm, Report
from labctl.report.signs import SIGNS, sign, words
from labctl.results.model import Verdict

_TEMPLATES = Path(__file__).with_name("templates")
MARKS = {Verdict.PASS: "✓", Verdict.FAIL: "✗", Verdict.ERROR: "!", Verdict.SKIP: "-"}


@dataclass(frozen=True)
class Figure:
    """One arm's journey drawn on the topology."""

    arm: Arm
    journey: Journey
    signs: dict[str, str]
    """The sign of every hop on the packet's way."""
    words: dict[str, str]
    harmed: str
    """Key of the element that harmed the packet; empty where none alone did."""
    edges: frozenset[str]
    """Inside hops of the interfaces it passed."""
    wide: Drawing
    tall: Drawing


@dataclass(frozen=True)
class Line:
    """One arm's journey as a row of signs."""

    arm: Arm
    cells: tuple[tuple[str, str], ...]
    """Sign and words, hop by hop in the order of the path."""
    note: str
    """Which packet it is, where it is not the usual one."""


@dataclass(frozen=True)
class Matrix:
    """All arms whose packets took one path."""

    hops: tuple[str, ...]
    lines: tuple[Line, ...]
    cures: tuple[finding.Cure, ...]


def render(report: Report) -> str:
    """Return the page of a report."""
    figures = _figures(report)
    shown = next((n for n, one in enumerate(figures) if one.arm.broken), 0)
    # A report without evidence explains no signs.
    used = [SIGNS[key] for key in SIGNS if key in _used(figures)]
    return _template().render(
        report=report,
        run=report.run,
        mark=MARKS[report.run.verdict],
        marks=MARKS,
        meaning=finding.VERDICTS[report.run.verdict],
        found=finding.find(report),
        broken=any(arm.broken for arm in report.arms),
        figures=figures,
        shown=shown,
        legend=used,
        signs=SIGNS,
        pairs=pairs.pairs(report),
        matrices=_matrices(report),
        changed=offloads.changed(report.run.environment.offloads, report.arms),
        offloads=offloads.everything(report.run.environment.offloads),
        facts=_facts(report),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.j2")


def _figures(report: Report) -> list[Figure]:
    observed = [arm for arm in report.arms if arm.main is not None]
    if not observed:
        return []
    longest = max((arm.path for arm in observed), key=len)
    drawn = (
        drawing.of_topology(report.topology, longest)
        if report.topology
        else drawing.of_path(longest)
    )
    found = []
    for arm in observed:
        journey = arm.main
        assert journey is not None
        alone = report.topology is None and arm.path != longest
        found.append(_figure(arm, journey, drawing.of_path(arm.path) if alone else drawn))
    return found


def _figure(arm: Arm, journey: Journey, drawn: drawing.Map) -> Figure:
    steps = {step.hop: step for step in journey.steps}
    forward = [step.hop for step in journey.steps] == [hop.name for hop in arm.path]
    path = arm.path if forward else arm.path[::-1]
    harm = next((step for step in journey.steps if step.happened in HARM), None)
    before = journey.before(harm) if harm else None
    inside = harm and before and harm.owner == before.owner and harm.place == before.place
    return Figure(
        arm=arm,
        journey=journey,
        signs={hop: sign(step) for hop, step in steps.items()},
        words={hop: words(step) for hop, step in steps.items()},
        harmed=harm.owner if harm and inside else "",
        edges=frozenset(steps),
        wide=drawing.place(drawn, path, "wide"),
        tall=drawing.place(drawn, path, "tall"),
    )


def _used(figures: list[Figure]) -> set[str]:
    found = {key for figure in figures for key in figure.signs.values()}
    if any(len(figure.signs) < len(figure.wide.spots) for figure in figures):
        found.add("off")
    return found


def _matrices(report: Report) -> list[Matrix]:
    found = []
    for group in report.groups:
        lines = []
        for arm in group:
            steps = {step.hop: step for step in arm.main.steps} if arm.main else {}
            cells = tuple((sign(steps.get(h.name)), words(steps.get(h.name))) for h in arm.path)
            lines.append(Line(arm, cells, _packet(arm)))
        hops = tuple(hop.name for hop in group[0].path)
        found.append(Matrix(hops, tuple(lines), tuple(finding.cures(group))))
    return found


def _packet(arm: Arm) -> str:
    journey = arm.main
    if journey is None or journey.kind == KINDS[0]:
        return ""
    forward = journey.steps[0].hop == arm.path[0].name
    return journey.kind if forward else f"{journey.kind}, read from {len(arm.path)} to 1"


def _facts(report: Report) -> list[tuple[str, str]]:
    names = {"cpus": "CPUs", "labctl": "labctl", "qemu": "QEMU", "pyroute2": "pyroute2"}
    found = []
    for key, value in report.run.environment.flat().items():
        if key.startswith("offloads.") or not value:
            continue
        group, _, rest = key.partition(".")
        word = names.get(group, group.replace("_", " ").capitalize())
        found.append((f"{word} {rest}".strip(), value))
    return found
