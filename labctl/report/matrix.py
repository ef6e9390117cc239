"""The page of a matrix: every cell with its verdict and its attempts, filtered without a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.report.filters import Filter, make_filter
from labctl.report.page import MARKS, template
from labctl.results.matrix import NOT_RUN, RUNS, Attempt, Matrix, Outcome
from labctl.results.model import Verdict
from labctl.results.recorder import RESULT
from labctl.version import __version__

REPORT = "report.html"
NONE = "-"
"""The value of an axis that a cell has not got."""


@dataclass(frozen=True)
class Row:
    """A cell on the page."""

    outcome: Outcome
    classes: str
    link: str
    """To the page of its run, or its record; empty where there is none."""
    earlier: tuple[Attempt, ...]
    """The attempts before the one that counts."""


def _verdict(one: Outcome) -> str:
    return str(one.verdict) if one.verdict else NOT_RUN


def _filters(outcomes: Sequence[Outcome], axes: dict[str, list[str]]) -> list[Filter]:
    verdicts = [*(str(one) for one in Verdict), NOT_RUN]
    found = [
        make_filter("verdict", "Verdict", [[_verdict(one)] for one in outcomes], order=verdicts),
        make_filter("experiment", "Experiment", [[one.cell.experiment] for one in outcomes]),
    ]
    for number, (axis, labels) in enumerate(axes.items()):
        values = [[one.cell.labels.get(axis, NONE)] for one in outcomes]
        found.append(make_filter(f"axis{number}", axis, values, order=[*labels, NONE]))
    return [one for one in found if len(one.choices) > 1]


def _link(folder: Path, one: Outcome) -> str:
    if not (one.last and one.last.run):
        return ""
    run = f"{RUNS}/{one.last.run}"
    return next(
        (f"{run}/{name}" for name in (REPORT, RESULT) if (folder / run / name).exists()), ""
    )


def render(made: Matrix, folder: Path) -> str:
    """Return the page of HTML; links are to what is in `folder`."""
    outcomes = made.wanted
    axes = made.axes()
    filters = _filters(outcomes, axes)
    names = list(axes)

    def value(one: Outcome, name: str) -> str:
        if name == "verdict":
            return _verdict(one)
        if name == "experiment":
            return one.cell.experiment
        return one.cell.labels.get(names[int(name.removeprefix("axis"))], NONE)

    rows = [
        Row(
            one,
            " ".join(css for each in filters for css in each.classes([value(one, each.name)])),
            _link(folder, one),
            tuple(each for each in one.attempts if each is not one.last),
        )
        for one in outcomes
    ]
    groups: dict[str, int] = {}
    for one in outcomes:
        if one.last:
            groups[one.last.group] = groups.get(one.last.group, 0) + 1
    counts = {
        name: sum(_verdict(one) == name for one in outcomes)
        for name in (*(str(one) for one in Verdict), NOT_RUN)
    }
    return template("matrix.html.j2").render(
        figures=(),
        matrix=made,
        rows=rows,
        axes=names,
        filters=filters,
        counts=counts,
        marks=MARKS,
        notes=_notes(outcomes),
        groups=groups,
        repeats=any(one.cell.repeat > 1 for one in outcomes),
        made_by=__version__,
    )


def _notes(outcomes: Sequence[Outcome]) -> list[str]:
    broken = sum(
        1
        for one in outcomes
        for each in one.attempts
        if each is not one.last and not each.told and each.digest == one.cell.digest
    )
    again = sum(
        1 for one in outcomes for each in one.attempts if each is not one.last and each.told
    )
    found = []
    if broken:
        found.append(f"{broken} attempts broke off and were made again; each is named below.")
    if again:
        found.append(
            f"{again} attempts had a verdict before: the cell has changed, or was run again by "
            "choice. The newest counts."
        )
    return found
