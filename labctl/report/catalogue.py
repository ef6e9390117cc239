"""The pages of the catalogue: one of HTML that loads nothing and runs nothing, one of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from labctl.report.filters import Filter, make_filter
from labctl.report.page import template
from labctl.results.catalogue import Catalogue, RowResult
from labctl.results.model import Verdict
from labctl.version import __version__

MARKS = {Verdict.PASS: "✓", Verdict.FAIL: "✗", Verdict.ERROR: "!", Verdict.SKIP: "-"}
NOTHING = "nothing"
_FINDINGS = ("healthy", "metadata lost", "corrupted", "dropped", "not a checksum problem")


@dataclass(frozen=True)
class Shown:
    """A row on the page."""

    row: RowResult
    classes: str
    mark: str
    cures: tuple[str, ...]
    """What mended it, in words that fit other rows."""


_FILTERS: tuple[tuple[str, str, Callable[[RowResult], Sequence[str]]], ...] = (
    ("loses", "Who loses", lambda row: [row.kind_of(row.loses) or NOTHING]),
    ("completes", "Who completes", lambda row: [row.kind_of(row.completes) or NOTHING]),
    ("cures", "What cures", lambda row: _cures(row) or [NOTHING]),
)


def _cures(row: RowResult) -> list[str]:
    return list(dict.fromkeys(one.what or one.name for one in row.cures))


def _filters(rows: Sequence[RowResult]) -> tuple[Filter, ...]:
    return tuple(
        make_filter(name, title, [values(row) for row in rows], last=NOTHING)
        for name, title, values in _FILTERS
    )


def _shown(row: RowResult, filters: Sequence[Filter]) -> Shown:
    classes = [
        css
        for one, (_, _, values) in zip(filters, _FILTERS, strict=True)
        for css in one.classes(values(row))
    ]
    return Shown(row, " ".join(classes), MARKS[row.verdict], tuple(_cures(row)))


def confusion(rows: Sequence[RowResult]) -> list[tuple[str, dict[str, int]]]:
    """Return by what was expected how often `labctl diagnose` found what."""
    found = []
    for outcome in ("works", "breaks", "control"):
        counts: dict[str, int] = {}
        for row in rows:
            if row.outcome == outcome and row.diagnosed:
                finding = row.diagnosed.finding
                counts[finding] = counts.get(finding, 0) + 1
        found.append((outcome, counts))
    return found


NAMED = ("right", "another", "none")
"""How the place that `labctl diagnose` names compares with that expected."""
NOWHERE, AN_END = "nowhere", "a guest"


def named(row: RowResult) -> str:
    """Return which of `NAMED` holds of a row that was diagnosed.

    Of a path that works it is right to name no place, or to call it healthy.
    """
    assert row.diagnosed
    where = row.diagnosed.where
    if not row.place:
        return NAMED[0] if not where or row.diagnosed.finding == _FINDINGS[0] else NAMED[1]
    if where.startswith(row.place):
        return NAMED[0]
    return NAMED[1] if where else NAMED[2]


def places(rows: Sequence[RowResult]) -> list[tuple[str, dict[str, int]]]:
    """Return by the kind of what stands at the expected place how often which place was named."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        if row.diagnosed:
            at = row.loses or row.place.rpartition(" ")[2]
            what = row.kind_of(at) or (AN_END if row.place else NOWHERE)
            counts = found.setdefault(what, dict.fromkeys(NAMED, 0))
            counts[named(row)] += 1
    return sorted(found.items(), key=lambda pair: (pair[0] == NOWHERE, pair[0]))


def wrong_places(rows: Sequence[RowResult]) -> list[str]:
    """Return the names of rows of which `labctl diagnose` named another place than expected."""
    return [row.name for row in rows if row.diagnosed and named(row) != NAMED[0]]


def environments(rows: Sequence[RowResult]) -> dict[str, str]:
    """Return what the rows were run on, all values of each fact."""
    facts: dict[str, list[str]] = {}
    for row in rows:
        for name, value in row.environment.items():
            short = "guest kernel" if name.startswith("guest_kernels.") else name.replace("_", " ")
            values = facts.setdefault(short, [])
            if value not in values:
                values.append(value)
    return {name: ", ".join(values) for name, values in sorted(facts.items())}


def _counts(rows: Sequence[RowResult]) -> Mapping[str, int]:
    return {str(one): sum(row.verdict is one for row in rows) for one in Verdict}


def render(made: Catalogue) -> str:
    """Return the page of HTML."""
    filters = _filters(made.rows)
    findings = [name for name, _ in confusion(made.rows)]
    seen = {finding for _, counts in confusion(made.rows) for finding in counts}
    return template("catalogue.html.j2").render(
        figures=(),
        filters=filters,
        rows=[_shown(row, filters) for row in made.rows],
        counts=_counts(made.rows),
        confusion=confusion(made.rows),
        findings=[*(one for one in _FINDINGS if one in seen), *sorted(seen - {*_FINDINGS})],
        outcomes=findings,
        wrong=wrong_places(made.rows),
        places=places(made.rows),
        named=NAMED,
        environment=environments(made.rows),
        marks=MARKS,
        made_by=__version__,
    )


def render_markdown(made: Catalogue) -> str:
    """Return the page of Markdown for documentation."""
    filters = _filters(made.rows)
    text = template("catalogue.md.j2").render(
        rows=[_shown(row, filters) for row in made.rows],
        counts=_counts(made.rows),
        wrong=wrong_places(made.rows),
        places=places(made.rows),
        named=NAMED,
        confusion=confusion(made.rows),
        environment=environments(made.rows),
    )
    return text.rstrip() + "\n"
