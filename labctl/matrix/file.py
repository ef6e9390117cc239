"""The matrix file: which experiments, under which conditions, and how often."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, PlainValidator, WithJsonSchema

from labctl.errors import UsageError, shown
from labctl.topology import fields, text
from labctl.topology.problems import Problem, TopologyError
from labctl.topology.tree import MAX_BYTES, Loc, Report
from labctl.topology.validation import read_shape

MOST_REPEATS = 10_000
TIMEOUT = 1800.0
"""Seconds that a cell may take, where nothing is said."""
MOST_TIMEOUT = 7 * 24 * 3600
_UNITS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"([0-9]{1,7})\s*([smh]?)")
_AXIS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_KEYS = "its keys are name, experiments, axes, exclude, repeat, timeout"


def duration(value: object) -> float:
    """Return the seconds that `20m`, `90s`, `2h` or a number says; for pydantic."""
    found = _DURATION.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if not found:
        fields.refuse(f"{shown(value)} is no duration", "write such as 90s, 20m or 2h")
    seconds = float(int(found[1]) * _UNITS[found[2] or "s"])
    if not 1 <= seconds <= MOST_TIMEOUT:
        fields.refuse(f"timeout must be 1 s to a week, not {shown(value)}")
    return seconds


def _axis(value: object) -> str:
    if not isinstance(value, str) or not _AXIS.fullmatch(value):
        fields.refuse(f"{shown(value)} cannot be the name of an axis", "such as kernel, nic or ip")
    if value in ("experiment", "repeat"):
        fields.refuse(f"the axis {value} is there in any case", "write experiments: or repeat:")
    return value


def _word(value: object) -> str:
    if isinstance(value, bool):
        fields.refuse(f"a value must be text, not {shown(value)}", "put it in quotes")
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or not value.strip() or len(value) > 1000 or "\0" in value:
        fields.refuse(f"{shown(value)} cannot be a value", "write a text")
    return value


def _values(value: object) -> object:
    """Let a list stand for its own labels."""
    if isinstance(value, list):
        words = [_word(one) for one in value]
        if len(set(words)) < len(words):
            fields.refuse("a value is here twice")
        return {word: word for word in words}
    return value if isinstance(value, dict) else [value]


_Word = Annotated[str, PlainValidator(_word), WithJsonSchema({"type": ["string", "integer"]})]
_Axis = Annotated[
    str, PlainValidator(_axis), WithJsonSchema({"type": "string", "pattern": f"^{_AXIS.pattern}$"})
]
_Values = Annotated[
    dict[_Word, _Word],
    BeforeValidator(_values),
    Field(min_length=1, max_length=1000),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": ["string", "integer"]}, "minItems": 1},
                {"type": "object", "additionalProperties": {"type": ["string", "integer"]}},
            ]
        }
    ),
]


class _File(BaseModel):
    """Experiments under all combinations of conditions."""

    model_config = fields.STRICT

    name: fields.TopologyName | None = None
    """What the matrix is called; the file's name by default. Its folder has this name."""
    experiments: Annotated[list[_Word], Field(min_length=1, max_length=1000)]
    """Names of experiments, or Python files of yours; FILE::NAME is one of several in a file."""
    axes: Annotated[dict[_Axis, _Values], Field(max_length=32)] = Field(default_factory=dict)
    """The values of each axis, or what they are called: {kernel: [debian-12, debian-13]}. topology,
    kernel, nic, offload, start and accel are for every experiment, and own means its own; others
    are the axes of an experiment's cases, such as ip: [ipv4, ipv6]."""
    exclude: Annotated[list[dict[_Word, _Word | list[_Word]]], Field(max_length=1000)] = Field(
        default_factory=list
    )
    """Combinations to leave out: {kernel: debian-11, nic: e1000}. A value may be a pattern, or
    several values."""
    repeat: Annotated[int, Field(ge=1, le=MOST_REPEATS)] = 1
    """How often each is run."""
    timeout: Annotated[
        float,
        PlainValidator(duration),
        WithJsonSchema({"type": ["string", "integer"], "pattern": f"^{_DURATION.pattern}$"}),
    ] = TIMEOUT
    """After how long a cell is ended: 20m, 90s, 2h; 30m by default."""


@dataclass
class Written:
    """A matrix as the user wants it; `problem` tells of a fault at its place."""

    name: str
    experiments: Sequence[str]
    axes: Mapping[str, Mapping[str, str]]
    """Values by their labels, by axis."""
    exclude: Sequence[Mapping[str, str | Sequence[str]]] = ()
    repeat: int = 1
    timeout: float = TIMEOUT
    base: Path = field(default_factory=Path)
    """The folder that paths are relative to."""
    report: Report | None = None
    """Where the places in the file are known; None for words of a command."""

    def refuse(self, loc: Loc, error: UsageError, *, key: bool = False) -> None:
        """Keep what is wrong, or raise it where there is no file to name a place in."""
        if self.report is None:
            raise error
        if isinstance(error, TopologyError):  # it has places of its own, in another file
            self.report.problems += error.problems
        else:
            self.report.add(loc, error.message, error.hint, key=key)

    def check(self) -> None:
        """Raise `TopologyError` with all that was refused."""
        if self.report and self.report.problems:
            raise TopologyError(self.report.problems)


def load(path: Path) -> Written:
    """Read a matrix file.

    Raises `TopologyError` with every problem, `UsageError` where it cannot be read.
    """
    file = str(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{file} is not a file", "name a matrix file")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"cannot read {file}: {why}", "name a matrix file") from None
    if len(data) > MAX_BYTES:
        raise TopologyError([Problem(file, 1, 1, "", "the file is larger than 1 MiB")])
    try:
        root, problems = text.read(text.decode(data), file)
    except text.NotTextError as error:
        raise TopologyError([Problem(file, error.line, error.column, "", str(error))]) from None
    if root is None:
        raise TopologyError(problems)
    report = Report(root, file)
    written = read_shape(root, report, _File, "a matrix", _KEYS)
    report.problems += problems
    if written is None or report.problems:
        raise TopologyError(report.problems)
    return Written(
        written.name or path.stem,
        written.experiments,
        written.axes,
        written.exclude,
        written.repeat,
        written.timeout,
        path.absolute().parent,
        report,
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a matrix file."""
    made = _File.model_json_schema()
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "Matrix"
    made["patternProperties"] = {"^x-": {"description": "Yours: labctl does not read it."}}
    return made
