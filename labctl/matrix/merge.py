"""Joining the parts of a matrix that were run by `--shard`, wherever that was.

Each part may be somebody else's: its runs come in by the door of all archives, and what is said of
an attempt is read by its type. An attempt counts once, also where two parts have it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from labctl.errors import LabctlError, UsageError
from labctl.matrix.run import held
from labctl.results import archive, matrix, store
from labctl.results.matrix import RUNS, Attempt, Matrix


def merge(parts: Sequence[Path], folder: Path) -> Matrix:
    """Join parts in a folder, which may hold some already; return the whole.

    Raises `UsageError` for parts of different matrices, or with different runs of one name;
    `LabctlError` for one that cannot be read, or a folder that cannot be written.
    """
    found = {part: matrix.read(part) for part in parts if part.resolve() != folder.resolve()}
    if matrix.holds(folder):
        found = {folder: matrix.read(folder), **found}
    first = next(iter(found.values()))
    for part, made in found.items():
        if [one.cell for one in made.outcomes] != [one.cell for one in first.outcomes]:
            raise UsageError(
                f"{part} is a part of another matrix than {next(iter(found))}",
                "run all parts with the same file and the same labctl",
            )
    with held(folder):
        have = {(one.cell, one.number): one for one in matrix.read_attempts(folder)}
        for part, made in found.items():
            for attempt in (one for outcome in made.outcomes for one in outcome.attempts):
                _take(attempt, part, folder, have)
        whole = matrix.joined(
            Matrix(first.name, first.outcomes, labctl=first.labctl), have.values()
        )
        matrix.write(folder, whole)
    return whole


def _take(attempt: Attempt, part: Path, folder: Path, have: dict[tuple[str, int], Attempt]) -> None:
    ours = [one for (cell, _), one in have.items() if cell == attempt.cell]
    if any(replace(one, number=attempt.number) == attempt for one in ours):
        return
    if attempt.run:
        _take_run(attempt.run, part / RUNS, folder / RUNS)
    if (attempt.cell, attempt.number) in have:  # two machines ran it, each as its first
        attempt = replace(attempt, number=max(one.number for one in ours) + 1)
    matrix.write_attempt(folder, attempt)
    have[attempt.cell, attempt.number] = attempt


def _take_run(name: str, source: Path, runs: Path) -> None:
    if not store.is_id(name):
        raise LabctlError(f"{source} names no run")
    with tempfile.TemporaryDirectory(prefix="labctl-merge-") as work:
        packed = Path(work) / "run.tar"
        archive.export(source / name, packed)
        archive.bring_in(packed, runs)
