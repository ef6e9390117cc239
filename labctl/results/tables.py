"""Records as plain rows of text; the command line decides how they look."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from labctl.results.difference import Change, Difference
from labctl.results.matrix import MatrixDifference
from labctl.results.model import Check, Run
from labctl.results.store import RunState, Summary


@dataclass(frozen=True)
class Table:
    """A title, the names of the columns, and rows of as many cells."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def list_table(runs: Iterable[Summary]) -> Table:
    """Return one row a run: id, verdict (or the state where there is none), experiment, start."""
    rows = tuple(
        (
            run.id,
            (run.verdict if run.verdict and run.state is RunState.FINISHED else run.state).value,
            run.experiment,
            run.started,
            run.problem or _words(run.run),
        )
        for run in runs
    )
    return Table("Results", ("run", "verdict", "experiment", "started", "remarks"), rows)


def run_tables(run: Run) -> list[Table]:
    """Return the tables of one run: its arms, each arm's checks, timings, environment."""
    arms = tuple((arm.name, arm.verdict.value, arm.description) for arm in run.arms)
    tables = [Table(f"{run.experiment}: {run.verdict}", ("arm", "verdict", "description"), arms)]
    columns = ("check", "hop", "verdict", "expected", "observed")
    for arm in run.arms:
        rows = tuple(
            (check.name, check.hop or "", check.verdict.value, check.expected, check.observed)
            for check in arm.checks
        )
        tables.append(Table(f"{arm.name}: {arm.verdict}", columns, rows))
    timings = tuple((stage, f"{seconds:.2f} s") for stage, seconds in run.timings.items())
    tables.append(Table("Timings", ("stage", "time"), timings))
    facts = tuple(
        (key, value)
        for key, value in run.environment.flat().items()
        if not key.startswith("offloads.")
    )
    tables.append(Table("Environment", ("what", "value"), facts))
    tables.append(Table("Offloads in effect", ("interface", "layer", "on", "off"), _offloads(run)))
    return tables[:1] + [table for table in tables[1:] if table.rows]


def difference_tables(found: Difference) -> list[Table]:
    """Return the tables of a difference: verdicts, checks, environment; none where all is equal."""
    columns = (found.a, found.b)
    checks = tuple(
        (change.arm, change.name, change.kind, _answer(change.a), _answer(change.b))
        for change in found.checks
    )
    tables = (
        Table("Verdicts", ("what", *columns), _rows(found.verdicts)),
        Table("Checks", ("arm", "check", "change", *columns), checks),
        Table("Environment", ("what", *columns), _rows(found.environment)),
    )
    return [table for table in tables if table.rows]


def matrix_difference_tables(found: MatrixDifference, a: str, b: str) -> list[Table]:
    """Return the tables of what differs between two matrices; none where all is equal."""
    constants = tuple(
        (axis, one or "-", other or "-") for axis, (one, other) in found.constants.items()
    )
    cells = tuple((one.cell, one.a or "-", one.b or "-") for one in found.changes)
    made = (Table("Axes", ("axis", a, b), constants), Table("Cells", ("cell", a, b), cells))
    return [one for one in made if one.rows]


def _words(run: Run | None) -> str:
    return "stopped early" if run and run.partial else ""


def _rows(changes: Iterable[Change]) -> tuple[tuple[str, ...], ...]:
    return tuple((c.key, "-" if c.a is None else c.a, "-" if c.b is None else c.b) for c in changes)


def _answer(check: Check | None) -> str:
    return f"{check.verdict}: {check.observed}" if check else "-"


def _offloads(run: Run) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            interface,
            layer,
            " ".join(sorted(name for name, on in features.items() if on)),
            " ".join(sorted(name for name, on in features.items() if not on)),
        )
        for interface, layers in run.environment.offloads.items()
        for layer, features in layers.items()
    )
