"""What the catalogue of paths holds of each row, on disk and for its pages.

A catalogue is a folder: a file of JSON a row (`rows/NAME.json`), the records of the runs behind
them (`records/`), and `catalogue.json` and `catalogue.html`, which are made of the rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from labctl.errors import LabctlError
from labctl.results.model import _STRICT, Seconds, Text, Verdict
from labctl.sandbox import atomic

SCHEMA_VERSION = 1
ROWS, RECORDS, JSON, PAGE = "rows", "records", "catalogue.json", "catalogue.html"
_MOST_BYTES = 4 << 20


@dataclass(frozen=True, config=_STRICT)
class Element:
    """Something on the path, and what its kind says of it."""

    name: Text
    """As places are named: a router, `NETWORK/SEGMENT`, a network."""
    kind: Text
    effect: Text
    """What it does to an unfinished checksum here: `keeps`, `loses`, `completes`, `verifies`."""
    mechanism: Text
    """Why: the kernel's function, or the section of a specification."""
    options: dict[str, Text] = field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class PacketWay:
    """One packet: what was to be seen of it, and what was seen at every hop."""

    label: Text
    """Such as `SYN vm1 to vm2`."""
    expected: Text
    states: tuple[tuple[Text, Text], ...]
    """Hop and state, such as `partial, needs_csum`, in the order in which it passes them."""


@dataclass(frozen=True, config=_STRICT)
class Traffic:
    """What became of traffic of one IP version."""

    version: int
    answers: dict[str, Text]
    """By probe (`ssh`, `udp`, `ping`): what it came to."""
    packets: tuple[PacketWay, ...]
    counters: dict[str, dict[str, int]]
    """By guest: its counters of checksum errors that grew."""
    drop_reasons: dict[str, tuple[Text, ...]]
    """By guest: why its kernel dropped packets, by its own word."""


@dataclass(frozen=True, config=_STRICT)
class Remedy:
    """One thing that was tried on the lab, alone."""

    name: Text
    how: Text
    cost: Text
    works: bool | None
    """None: it could not be tried, or not be told."""
    text: Text
    what: Text = ""
    """The same in words that fit other rows, too: `router as raw-vnet`, `tx off at the TAPs`."""


@dataclass(frozen=True, config=_STRICT)
class Diagnosed:
    """What `labctl diagnose` says of the path."""

    finding: Text
    sentence: Text
    where: Text
    reason: Text
    remedies: tuple[Remedy, ...] = ()


@dataclass(frozen=True, config=_STRICT)
class RowResult:
    """One row of the catalogue."""

    name: Text
    group: Text
    title: Text
    outcome: Literal["works", "breaks", "control"]
    """What is expected of it: that packets are accepted, that they are not, or that it fails for
    another reason than the loss of metadata."""
    expected: Text
    """What is expected, in one sentence."""
    path: Text
    """Everything on the way, such as `vm1 - left - r1 (raw) - right - vm2`."""
    elements: tuple[Element, ...]
    sources: tuple[Text, ...]
    """Where such a path broke, or is described, in public."""
    verdict: Verdict
    """Pass: what was measured is what was expected."""
    loses: Text = ""
    """The element that is expected to lose the metadata; empty for none."""
    completes: Text = ""
    """The element that is expected to complete the checksum; empty for none."""
    place: Text = ""
    """The place that `labctl diagnose` is expected to name, or what it begins with."""
    note: Text = ""
    differences: tuple[Text, ...] = ()
    """What was measured and not expected, or why nothing was."""
    traffic: tuple[Traffic, ...] = ()
    diagnosed: Diagnosed | None = None
    seconds: Seconds = 0.0
    record: Text = ""
    """The name of the run's folder in `records`."""
    environment: dict[str, Text] = field(default_factory=dict)
    started: Text = ""
    key: Text = ""
    """What the result is of: topology, kinds, versions. Another key makes it out of date."""

    def kind_of(self, name: str) -> str:
        """Return the kind of the element of a name; empty for none."""
        return next((one.kind for one in self.elements if one.name == name), "")

    @property
    def cures(self) -> tuple[Remedy, ...]:
        """What mended it when it was tried."""
        tried = self.diagnosed.remedies if self.diagnosed else ()
        return tuple(one for one in tried if one.works)


_Version = Annotated[int, Field(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]


@dataclass(frozen=True, config=_STRICT)
class Catalogue:
    """All rows of one machine."""

    rows: tuple[RowResult, ...]
    version: _Version = SCHEMA_VERSION


_ROW = TypeAdapter(RowResult)
_CATALOGUE = TypeAdapter(Catalogue)


def to_json(made: Catalogue) -> dict[str, Any]:
    """Return a catalogue as plain data, ready for `json.dumps`."""
    data: dict[str, Any] = _CATALOGUE.dump_python(made, mode="json")
    return data


def write_row(folder: Path, row: RowResult) -> None:
    """Write the file of a row; raises `LabctlError` where that cannot be done."""
    _write(folder / ROWS / f"{row.name}.json", _ROW.dump_python(row, mode="json"))


def write(folder: Path, made: Catalogue) -> Path:
    """Write `catalogue.json`; raises `LabctlError` where that cannot be done."""
    path = folder / JSON
    _write(path, to_json(made))
    return path


def _write(path: Path, data: object) -> None:
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, text, atomic.public())
    except OSError as error:
        raise LabctlError(f"{path} cannot be written: {error.strerror}") from error


def read_row(folder: Path, name: str) -> RowResult | None:
    """Return the result of a row; None where there is none, or none that can be read."""
    path = folder / ROWS / f"{name}.json"
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        return _ROW.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def forget_row(folder: Path, name: str) -> None:
    """Take the file of a row away, if there is one."""
    (folder / ROWS / f"{name}.json").unlink(missing_ok=True)


def read_rows(folder: Path, names: Sequence[str]) -> Catalogue:
    """Return the rows of these names that a folder has, in their order."""
    found = (read_row(folder, name) for name in names)
    return Catalogue(tuple(row for row in found if row is not None))
