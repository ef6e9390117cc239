"""Two packet traces side by side, hop by hop: what is the same, and what is the difference."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from labctl.lab.hop_locations import hop_locations
from labctl.packet.checksum import Checksum
from labctl.report.gather import Arm, Report
from labctl.report.legend import sign, words
from labctl.topology.points import ObservationPoint
from labctl.tracing.packet_trace import FAULTS, HopEvent, PacketTrace, Step


@dataclass(frozen=True)
class Sum:
    """A number to compare the field with."""

    name: str
    value: str
    same: bool
    """Whether the field holds it."""


@dataclass(frozen=True)
class Cell:
    """One hop of one packet trace."""

    sign: str
    words: str
    field: str
    sums: tuple[Sum, ...]
    happened: str
    """Empty where it was only sent or passed on."""
    faulty: bool
    notes: tuple[str, ...]
    time: str = ""
    """When it was seen there, from where it was seen first."""


@dataclass(frozen=True)
class Row:
    """One hop of both packet traces."""

    number: int
    hop: str
    where: str
    left: Cell
    right: Cell | None
    differs: bool


@dataclass(frozen=True)
class Side:
    """Whose packet trace a column shows."""

    name: str
    description: str = ""
    told: tuple[str, ...] = ()
    """What came of it besides: what SSH did, what kernels counted."""


@dataclass(frozen=True)
class Pair:
    """A packet trace, and another of the same kind to compare it with, where there is one."""

    left: Side
    left_trace: PacketTrace
    right: Side | None
    right_trace: PacketTrace | None
    rows: tuple[Row, ...]
    statement: str
    """What is the same and what is not, in one or two sentences."""

    @property
    def kind(self) -> str:
        """What kind of packet it is."""
        return self.left_trace.kind

    @property
    def only_flag(self) -> bool:
        """Whether metadata is all that differs in kind."""
        return bool(self.rows) and any(row.differs for row in self.rows) and _same_fields(self.rows)


def pairs(report: Report) -> list[Pair]:
    """Return the comparisons that tell most, the most telling first.

    A broken arm beside the one most like it that is healthy; where nothing is broken, the first
    packet trace beside one whose field differs, such as a control with offload off.
    """
    found = []
    for group in report.groups:
        left = next((arm for arm in group if arm.broken and arm.main), None)
        if left is None:
            continue
        alike = [arm for arm in group if arm.healthy and arm.family == left.family]
        kinds = [left.main.kind] if left.main else []
        kinds += [j.kind for j in left.packet_traces if not j.ok and j.kind not in kinds]
        for kind in dict.fromkeys(kinds):
            packet_trace = _first(left, kind)
            right = _alike(left, packet_trace, alike, kind)
            found.append(compare(left, packet_trace, right, right.first(kind) if right else None))
        return found
    for group in report.groups:
        for left in group:
            told = left.main
            if told is None:
                continue
            others = [a for a in group if a is not left and a.family == left.family]
            seen = _states(told)
            other = next(
                (a for a in others if (j := a.first(told.kind)) and _states(j) != seen), None
            )
            return [compare(left, told, other, other.first(told.kind) if other else None)]
    return []


def _first(arm: Arm, kind: str) -> PacketTrace:
    several = [one for one in arm.packet_traces if one.kind == kind]
    return next((one for one in several if not one.ok), several[0])


def _states(packet_trace: PacketTrace) -> list[Checksum | None]:
    return [step.state for step in packet_trace.steps]


def _alike(left: Arm, packet_trace: PacketTrace, arms: Sequence[Arm], kind: str) -> Arm | None:
    """Return the healthy arm whose packet is most like the broken one's, then whose name is."""

    def likeness(arm: Arm) -> tuple[int, float]:
        other = arm.first(kind)
        states = _states(other) if other else []
        same = sum(a is b for a, b in zip(_states(packet_trace), states, strict=False))
        return same, difflib.SequenceMatcher(None, left.name, arm.name).ratio()

    fitting = [arm for arm in arms if arm.first(kind) is not None]
    return max(fitting, key=likeness, default=None)


def alone(name: str, packet_trace: PacketTrace, path: Sequence[ObservationPoint]) -> Pair:
    """Return a packet trace along `path`, or back, with times and nothing to compare it with."""
    pair = _pair(Side(name), packet_trace, None, None, path)
    rows = tuple(
        replace(row, left=replace(row.left, time=_time(step, packet_trace)))
        for row, step in zip(pair.rows, packet_trace.steps, strict=True)
    )
    return replace(pair, rows=rows)


def _time(step: Step, packet_trace: PacketTrace) -> str:
    start = packet_trace.started_ns
    if step.time_ns is None or not start:
        return ""
    if step.time_ns == start:
        clock = datetime.fromtimestamp(start // 10**9, UTC)
        return f"{clock:%H:%M:%S}.{start % 10**9 // 1000:06} UTC"
    return f"{(step.time_ns - start) / 1e6:+.3f} ms"


def compare(
    left: Arm, packet_trace: PacketTrace, right: Arm | None = None, other: PacketTrace | None = None
) -> Pair:
    """Put the packet traces of two arms side by side, by the names of their hops."""
    return _pair(_side(left), packet_trace, _side(right) if right else None, other, left.path)


def _side(arm: Arm) -> Side:
    told = [f"SSH: {arm.ssh.observed}"] if arm.ssh else []
    told += [f"{check.name}: {check.observed}" for check in arm.told]
    return Side(arm.name, arm.result.description, tuple(told))


def _pair(
    left: Side,
    packet_trace: PacketTrace,
    right: Side | None,
    other: PacketTrace | None,
    path: Sequence[ObservationPoint],
) -> Pair:
    places = hop_locations(path)
    across = {step.hop: step for step in other.steps} if other else {}
    rows = []
    for number, step in enumerate(packet_trace.steps, start=1):
        beside = across.get(step.hop)
        rows.append(
            Row(
                number=number,
                hop=step.hop,
                where=places[step.hop],
                left=cell(step),
                right=cell(beside) if beside else None,
                differs=beside is not None and sign(beside) != sign(step),
            )
        )
    return Pair(left, packet_trace, right, other, tuple(rows), _statement(rows))


def cell(step: Step) -> Cell:
    """Return what is to be shown of one step."""
    named = (("pseudo-header", step.pseudo_sum), ("full", step.expected))
    sums = tuple(
        Sum(name, f"{value:#06x}", value == step.field)
        for name, value in named
        if value is not None
    )
    quiet = (HopEvent.SENT, HopEvent.FORWARDED)
    happened = "" if step.happened in quiet or step.state is None else str(step.happened)
    if step.reason:
        happened = f"{happened}, kernel: {step.reason}".lstrip(", ")
    return Cell(
        sign=sign(step),
        words=words(step),
        field="" if step.field is None else f"{step.field:#06x}",
        sums=sums,
        happened=happened,
        faulty=step.happened in FAULTS,
        notes=step.notes,
    )


def _same_fields(rows: Sequence[Row]) -> bool:
    def state(cell: Cell | None) -> str:
        return cell.words.partition(",")[0] if cell else ""

    return all(state(row.left) == state(row.right) for row in rows)


def _statement(rows: Sequence[Row]) -> str:
    if not rows or rows[0].right is None:
        return ""
    differing = [row for row in rows if row.differs]
    if not differing:
        return f"The two do not differ at any of the {len(rows)} hops."
    first = differing[0]
    if _same_fields(rows):
        until = "to the end" if differing[-1] is rows[-1] else f"to {differing[-1].hop}"
        state = first.left.words.partition(",")[0]
        return (
            f"In both the field is {state} at all {len(rows)} hops: a capture of bytes shows no "
            f"difference. Only the flag beside the packet differs, from {first.hop} {until}."
        )
    if all(row.left.sign in ("flag", "lost") for row in rows) and all(
        row.right and row.right.sign == "valid" for row in rows
    ):
        return (
            f"On the left the checksum is left unfinished on all {len(rows)} hops. On the right "
            "the sender finishes it itself: there is no flag, and none to lose."
        )
    finished = rows.index(first)
    if all(row.left.sign in ("flag", "lost") for row in rows) and all(
        row.right and row.right.sign == ("flag" if number < finished else "valid")
        for number, row in enumerate(rows)
    ):
        return (
            f"On the left the checksum is left unfinished on all {len(rows)} hops. On the right "
            f"it is finished on the way, between {rows[finished - 1].hop} and {first.hop}."
        )
    many = "all" if len(differing) == len(rows) else str(len(differing))
    return f"They differ at {many} of {len(rows)} hops, first at {first.hop}."
