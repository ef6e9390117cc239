"""What a matrix of experiments came to, on disk.

A matrix is a folder: `matrix.json` (its cells, and what each came to), `attempts/` (a file of JSON
for each try to run a cell, which is written once and never changed), `runs/` (the records of the
runs, as anywhere), and the pages that are made of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from labctl.errors import LabctlError, UsageError
from labctl.results import store
from labctl.results.model import _STRICT, Seconds, Text, Verdict, combine
from labctl.sandbox import atomic

VERSION = 1
JSON, PAGE, JUNIT = "matrix.json", "matrix.html", "junit.xml"
ATTEMPTS, RUNS = "attempts", "runs"
MOST_CELLS = 100_000
_MOST_ATTEMPT = 64 << 10
_MOST_BYTES = 256 << 20
Key = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Ending = Literal["ended", "crashed", "deadline", "lost", "stopped", "no place"]


@dataclass(frozen=True, config=_STRICT)
class Cell:
    """One experiment under one combination of the axes."""

    key: Key
    """Of its experiment, labels and repeat: the same in each run of the matrix."""
    experiment: Text
    labels: dict[str, Text]
    """By axis."""
    digest: Text
    """Of all that makes it; with another one, it is run again."""
    command: Text
    """What to type to run it alone."""
    repeat: int = 1

    @cached_property
    def name(self) -> str:
        """What people call it, such as `bridged kernel=debian-13 ip=ipv4 #2`."""
        words = [self.experiment, *(f"{axis}={label}" for axis, label in self.labels.items())]
        return " ".join([*words, *([f"#{self.repeat}"] if self.repeat > 1 else [])])


@dataclass(frozen=True, config=_STRICT)
class Attempt:
    """One try to run a cell."""

    cell: Key
    digest: Text
    """The cell's, when it was tried."""
    number: Annotated[int, Field(ge=1, le=1_000_000)]
    how: Ending
    verdict: Verdict
    """The run's; error where it came to none, and `reason` says why."""
    reason: Text = ""
    run: Text = ""
    """The id of its run, in `runs`; empty where there is none."""
    place: Text = ""
    """Where it was run."""
    group: Text = ""
    """The versions it was run with, where they were not those of whoever ran the matrix."""
    started: Text = ""
    """ISO 8601, UTC."""
    seconds: Seconds = 0.0

    @property
    def told(self) -> bool:
        """Whether the experiment itself came to its verdict."""
        return self.how == "ended" and bool(self.run)


@dataclass(frozen=True, config=_STRICT)
class Outcome:
    """A cell with its attempts, the oldest first."""

    cell: Cell
    attempts: tuple[Attempt, ...] = ()

    @property
    def last(self) -> Attempt | None:
        """The newest attempt of the cell as it is now.

        There is a next one only where that broke off, or where the user asked for it.
        """
        fitting = [one for one in self.attempts if one.digest == self.cell.digest]
        return fitting[-1] if fitting else None

    @property
    def verdict(self) -> Verdict | None:
        """The last attempt's, never the better one of several; None where it was not run."""
        return self.last.verdict if self.last else None


_Version = Annotated[int, Field(ge=VERSION, le=VERSION)]


@dataclass(frozen=True, config=_STRICT)
class Matrix:
    """All cells of a matrix."""

    name: Text
    outcomes: Annotated[tuple[Outcome, ...], Field(max_length=MOST_CELLS)]
    shard: Text = ""
    """Such as `2/4`, where only a part of the cells was to be run."""
    chosen: tuple[Key, ...] = ()
    """The cells of the shard; all where it is empty."""
    labctl: Text = ""
    version: _Version = VERSION

    @property
    def wanted(self) -> list[Outcome]:
        """The cells that were to be run."""
        chosen = set(self.chosen)
        return [one for one in self.outcomes if not chosen or one.cell.key in chosen]

    @property
    def verdict(self) -> Verdict:
        """Of all that were to be run; a cell without a result could not be told."""
        return combine(one.verdict or Verdict.ERROR for one in self.wanted)

    def axes(self) -> dict[str, list[str]]:
        """Return the labels of each axis, in their order."""
        found: dict[str, list[str]] = {}
        for one in self.outcomes:
            for axis, label in one.cell.labels.items():
                labels = found.setdefault(axis, [])
                if label not in labels:
                    labels.append(label)
        return found


_MATRIX = TypeAdapter(Matrix)
_ATTEMPT = TypeAdapter(Attempt)


def to_json(made: Matrix) -> dict[str, Any]:
    """Return a matrix as plain data, ready for `json.dumps`."""
    data: dict[str, Any] = _MATRIX.dump_python(made, mode="json")
    return {**data, "verdict": made.verdict.value}


def holds(folder: Path) -> bool:
    """Whether a folder holds a matrix."""
    return (folder / JSON).is_file()


def write(folder: Path, made: Matrix) -> Path:
    """Write `matrix.json`; raises `LabctlError` where that cannot be done."""
    path = folder / JSON
    _write(path, json.dumps(to_json(made), indent=1, ensure_ascii=False) + "\n")
    return path


def write_attempt(folder: Path, attempt: Attempt) -> None:
    """Write the file of an attempt, whole and on disk, as the last thing that is done for it."""
    path = folder / ATTEMPTS / f"{attempt.cell}-{attempt.number}.json"
    data = _ATTEMPT.dump_python(attempt, mode="json")
    _write(path, json.dumps(data, ensure_ascii=False) + "\n", sync=True)


def _write(path: Path, text: str, *, sync: bool = False) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, text, atomic.public(), sync=sync)
    except OSError as error:
        raise LabctlError(
            f"{path} cannot be written: {error.strerror}", "free some space, or: --output DIR"
        ) from error


def read(folder: Path) -> Matrix:
    """Return the matrix of a folder, whoever made it; its attempts are those of the files.

    Raises `UsageError` where there is none, `LabctlError` for one that cannot be read.
    """
    path = folder / JSON
    if not holds(folder):
        raise UsageError(f"{folder} holds no matrix", f"name a folder with a {JSON}")
    try:
        with store.open_file(path) as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ValueError("it is too large")
        told = json.loads(data)
        if isinstance(told, dict):
            told.pop("verdict", None)
        found = _MATRIX.validate_python(told)
    except (OSError, ValueError, RecursionError) as error:
        raise LabctlError(f"{path} cannot be read: {_why(error)}", "run the matrix again") from None
    return joined(found, read_attempts(folder))


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


def joined(made: Matrix, attempts: Iterable[Attempt]) -> Matrix:
    """Return a matrix whose cells have these attempts."""
    by_cell: dict[str, list[Attempt]] = {}
    for one in attempts:
        by_cell.setdefault(one.cell, []).append(one)
    outcomes = tuple(
        Outcome(
            one.cell, tuple(sorted(by_cell.get(one.cell.key, ()), key=lambda each: each.number))
        )
        for one in made.outcomes
    )
    return Matrix(made.name, outcomes, made.shard, made.chosen, made.labctl)


def planned(name: str, cells: Sequence[Cell], attempts: Iterable[Attempt], **rest: Any) -> Matrix:
    """Return the matrix of cells with those of `attempts` that are theirs."""
    return joined(Matrix(name, tuple(Outcome(cell) for cell in cells), **rest), attempts)


def read_attempts(folder: Path) -> list[Attempt]:
    """Return the attempts of a folder; a file that holds none is as if it were not there.

    It is of another version, or somebody else's: its cell is run again.
    """
    found = []
    try:
        files = sorted((folder / ATTEMPTS).glob("*.json"))
    except OSError:
        return []
    for path in files:
        try:
            with store.open_file(path) as file:
                data = file.read(_MOST_ATTEMPT + 1)
            one = _ATTEMPT.validate_json(data)
        except (OSError, ValueError):
            continue
        if len(data) <= _MOST_ATTEMPT and path.stem == f"{one.cell}-{one.number}":
            found.append(one)
    return found


@dataclass(frozen=True)
class CellChange:
    """A cell that came to something else; None where one of the matrices does not have it."""

    cell: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class MatrixDifference:
    """What is different in matrix `b` compared with matrix `a`."""

    a: str
    b: str
    changes: tuple[CellChange, ...]
    constants: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    """The axes that have one value in each: by these the matrices differ, and no cell does."""
    same: int = 0
    """How many cells came to the same."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data, ready for `json.dumps`."""
        data: dict[str, Any] = TypeAdapter(MatrixDifference).dump_python(self, mode="json")
        return data


NOT_RUN = "not run"


def diff(a: Matrix, b: Matrix) -> MatrixDifference:
    """Compare two matrices cell by cell.

    An axis that has one value in each is left out of what cells are called, so that the same
    experiments with one kernel and with another can be compared.
    """
    axes_a, axes_b = a.axes(), b.axes()
    constant = {
        axis
        for axis in {*axes_a, *axes_b}
        if len(axes_a.get(axis, ())) <= 1 and len(axes_b.get(axis, ())) <= 1
    }
    left, right = _verdicts(a, constant), _verdicts(b, constant)
    names = list(dict.fromkeys((*left, *right)))
    changes = tuple(
        CellChange(name, left.get(name), right.get(name))
        for name in names
        if left.get(name) != right.get(name)
    )
    constants = {
        axis: (_only(axes_a, axis), _only(axes_b, axis))
        for axis in sorted(constant)
        if _only(axes_a, axis) != _only(axes_b, axis)
    }
    return MatrixDifference(a.name, b.name, changes, constants, len(names) - len(changes))


def _only(axes: Mapping[str, Sequence[str]], axis: str) -> str | None:
    return next(iter(axes.get(axis, ())), None)


def _verdicts(made: Matrix, constant: set[str]) -> dict[str, str]:
    found = {}
    for one in made.outcomes:
        labels = {axis: label for axis, label in one.cell.labels.items() if axis not in constant}
        words = [one.cell.experiment, *(f"{axis}={label}" for axis, label in labels.items())]
        name = " ".join([*words, *([f"#{one.cell.repeat}"] if one.cell.repeat > 1 else [])])
        found[name] = str(one.verdict) if one.verdict else NOT_RUN
    return found
