"""The page: a report as one HTML file that needs nothing else, from any disk, in any browser.

What stands in a record is another's text: everything is escaped, and the page's own policy lets
nothing be loaded or run, whatever it contains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from labctl.report import comparison, figures, finding, offloads
from labctl.report.figures import Subject
from labctl.report.gather import Arm, Report
from labctl.report.legend import SIGNS, sign, words
from labctl.results.model import Verdict
from labctl.topology.model import Topology
from labctl.topology.points import ObservationPoint
from labctl.tracing.packet_trace import PacketTrace, summary
from labctl.tracing.recorded import KINDS
from labctl.version import __version__

_UNFIT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_TEMPLATES = Path(__file__).with_name("templates")
MARKS = {Verdict.PASS: "✓", Verdict.FAIL: "✗", Verdict.ERROR: "!", Verdict.SKIP: "-"}


@dataclass(frozen=True)
class Line:
    """One arm's packet trace as a row of signs."""

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
    workarounds: tuple[finding.Workaround, ...]


def render(report: Report) -> str:
    """Return the page of a recorded run."""
    drawn = figures.draw(figures.of_arms(report.arms), report.topology)
    return template("page.html.j2").render(
        report=report,
        run=report.run,
        mark=MARKS[report.run.verdict],
        marks=MARKS,
        meaning=finding.meaning(report.run),
        found=finding.find(report),
        broken=any(arm.broken for arm in report.arms),
        figures=drawn,
        shown=figures.shown_first(drawn),
        hint=figures.hint(drawn),
        legend=figures.legend(drawn),
        signs=SIGNS,
        pairs=comparison.pairs(report),
        matrices=_matrices(report),
        changed=offloads.changed(report.run.environment.offloads, report.arms, report.topology),
        offloads=offloads.everything(report.run.environment.offloads, report.topology),
        facts=_facts(report),
        made_by=report.run.environment.labctl,
    )


def render_packet_traces(
    title: str,
    headline: str,
    packet_traces: Sequence[PacketTrace],
    path: Sequence[ObservationPoint],
    *,
    topology: Topology | None = None,
    notes: Sequence[str] = (),
    routers: Mapping[str, str] | None = None,
    lab: str = "",
    command: str = "",
) -> str:
    """Return a page of packet traces that belong to no record, such as those of a trace.

    `title` says what was followed, `headline` what came of it, `path` is the way there; those on
    the way back have its hops in reverse. `routers` says what forwards in routers. Packet traces of
    the same course are shown once, with how many there were.
    """
    courses = summary(packet_traces)
    subjects = [
        Subject(
            name=packet_trace.kind if count == 1 else f"{packet_trace.kind} ({count} of them)",
            packet_trace=packet_trace,
            path=tuple(path),
            good=packet_trace.ok,
            routers=routers or {},
        )
        for packet_trace, count in courses
    ]
    drawn = figures.draw(subjects, topology)
    told = [
        comparison.alone(subject.name, subject.packet_trace, subject.path) for subject in subjects
    ]
    told.sort(key=lambda pair: pair.left_trace.ok)
    return template("packet_traces.html.j2").render(
        title=title,
        headline=headline,
        notes=tuple(notes),
        lab=lab,
        when=_when(packet_traces),
        command=command,
        broken=not all(packet_trace.ok for packet_trace in packet_traces),
        figures=drawn,
        shown=figures.shown_first(drawn),
        hint=figures.hint(drawn),
        legend=figures.legend(drawn),
        signs=SIGNS,
        pairs=told,
        made_by=__version__,
    )


def _when(packet_traces: Sequence[PacketTrace]) -> str:
    """Return when the first packet was seen, in UTC to the second; empty where none was."""
    first = min((one.started_ns for one in packet_traces if one.started_ns), default=0)
    if not first:
        return ""
    return datetime.fromtimestamp(first // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_holdable,
    )


def _holdable(value: object) -> object:
    r"""Write what no HTML file can hold as Python does, such as `\x1b`, wherever it came from.

    That is control characters (HTML, section 13.1) and halves of surrogate pairs, which a record's
    JSON can hold and UTF-8 cannot. jinja2 escapes what comes of it, unless it was markup before.
    """
    if not isinstance(value, str) or not _UNFIT.search(value):
        return value
    plain = _UNFIT.sub(lambda odd: odd.group().encode("unicode_escape").decode(), value)
    return Markup(plain) if isinstance(value, Markup) else plain


def template(name: str) -> Template:
    """Return one of the templates of this room."""
    return _environment().get_template(name)


def _matrices(report: Report) -> list[Matrix]:
    found = []
    for group in report.groups:
        lines = []
        for arm in group:
            steps = {step.hop: step for step in arm.main.steps} if arm.main else {}
            cells = tuple((sign(steps.get(h.name)), words(steps.get(h.name))) for h in arm.path)
            lines.append(Line(arm, cells, _packet(arm)))
        hops = tuple(hop.name for hop in group[0].path)
        found.append(Matrix(hops, tuple(lines), tuple(finding.workarounds(group))))
    return found


def _packet(arm: Arm) -> str:
    packet_trace = arm.main
    if packet_trace is None or packet_trace.kind == KINDS[0]:
        return ""
    forward = packet_trace.steps[0].hop == arm.path[0].name
    return packet_trace.kind if forward else f"{packet_trace.kind}, read from {len(arm.path)} to 1"


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
