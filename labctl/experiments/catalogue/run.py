"""Run rows of the catalogue, as many at once as the machine holds, and go on where one was ended.

Each row is a process of its own, which brings up a lab, writes the row's file and ends. A row whose
file is of the same topology, kinds and versions is not run again, unless it could not be told.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from labctl import topology as topologies
from labctl.events import Emit, silent
from labctl.experiments import runner
from labctl.experiments.catalogue.row import Measured, Prediction, experiment_of, predict
from labctl.experiments.catalogue.rows import Row
from labctl.guests.accel import Policy
from labctl.jobs.local import HERE, Local, cores
from labctl.jobs.model import Ended, How, Job, Need, Place
from labctl.jobs.schedule import Scheduler
from labctl.kinds.base import Effect
from labctl.lab import memory, preflight
from labctl.results.catalogue import RECORDS, RowResult, forget_row, read_row, write_row
from labctl.results.model import Run, Verdict, host_environment
from labctl.sandbox import owned
from labctl.topology import Topology

MEMORY_OF_ROW = 600
"""MiB that a row takes at most, nearly: two guests that boot, and what watches them."""
MOST_SECONDS = 7200.0
"""What a row may take on the slowest machine; it has deadlines of its own."""
_ENVIRONMENT = ("guest_kernels", "host_kernel", "distribution", "qemu", "accelerator", "labctl")


def key(row: Row, model: Topology, expected: Prediction) -> str:
    """Return what a result is of; another key makes it out of date."""
    here = host_environment()
    facts = [model.digest(), here.host_kernel, here.labctl, repr(row.control)]
    facts += [expected.words, repr(expected.elements), *(["protocols"] if row.protocols else [])]
    facts += ["dhcp"] if row.dhcp else []
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def known(row: Row, folder: Path) -> RowResult | None:
    """Return a result that is not out of date and told something; None where there is none."""
    found = read_row(folder, row.name)
    if found is None or found.verdict is Verdict.ERROR:
        return None
    model = topologies.from_mapping(row.topology)
    return found if found.key == key(row, model, predict(row, model)) else None


def run_row(
    row: Row, folder: Path, *, policy: Policy = "auto", emit: Emit = silent, cold: bool = False
) -> RowResult:
    """Run one row in this process, and write its file; return what it came to.

    Where this machine lacks what a kind needs it is a skip that says so. Raises `LabctlError` where
    the folder cannot be written.
    """
    model = topologies.from_mapping(row.topology)
    expected = predict(row, model)
    mark = key(row, model, expected)
    begun = time.monotonic()
    lacks = [error.message for error in preflight.lacking(model)]
    if lacks:
        result = _result(row, expected, mark, Verdict.SKIP, lacks, Measured())
    else:
        measured = Measured()
        experiment = experiment_of(row, measured)
        done, record = runner.run(
            experiment, policy=policy, results=folder / RECORDS, emit=emit, cold=cold
        )
        result = _result(row, expected, mark, done.verdict, _differences(done), measured)
        result = dataclasses.replace(
            result, record=record.name, started=done.started, environment=_environment(done)
        )
    result = dataclasses.replace(result, seconds=time.monotonic() - begun)
    write_row(folder, result)
    return result


def _result(
    row: Row,
    expected: Prediction,
    mark: str,
    verdict: Verdict,
    differences: Sequence[str],
    measured: Measured,
) -> RowResult:
    return RowResult(
        name=row.name,
        group=row.group,
        title=row.title,
        outcome=expected.outcome,
        expected=expected.words,
        path=expected.text,
        elements=expected.elements,
        sources=row.sources,
        verdict=verdict,
        loses=expected.element(Effect.LOSES),
        completes=expected.element(Effect.COMPLETES),
        place=row.control.where if row.control else expected.place,
        note=row.note,
        differences=tuple(differences),
        traffic=tuple(measured.traffic),
        diagnosed=measured.diagnosed,
        key=mark,
    )


def _differences(done: Run) -> list[str]:
    """Return what was measured and not expected, a line each."""
    return [
        f"{arm.name}, {check.name}: expected {check.expected}; observed {check.observed}"
        for arm in done.arms
        for check in arm.checks
        if check.verdict is not Verdict.PASS
    ]


def _environment(done: Run) -> dict[str, str]:
    flat = done.environment.flat()
    return {name: value for name, value in flat.items() if name.startswith(_ENVIRONMENT) and value}


def run_all(
    rows: Sequence[Row],
    folder: Path,
    *,
    options: Sequence[str] = (),
    jobs: int | None = None,
    again: bool = False,
    tell: Callable[[Row, RowResult | None, bool], None] = lambda _row, _found, _ran: None,
) -> list[RowResult]:
    """Run rows, each in a process of its own, `jobs` at once; return what they came to.

    `options` are further words for each process. A row that is known is not run, unless `again`.
    `tell` is told of each that is done: the row, its result (None where its process came to none)
    and whether it was run. When this is interrupted the processes are ended, and take their labs
    down.
    """
    found: dict[str, RowResult] = {}
    wanted: list[Job] = []
    for row in rows:
        before = None if again else known(row, folder)
        if before:
            found[row.name] = before
            tell(row, before, False)
        else:
            words = _words(row, folder, options)
            wanted.append(Job(row.name, tuple(words), Need(1, MEMORY_OF_ROW), MOST_SECONDS))
    by_name = {row.name: row for row in rows}

    def ended(one: Ended, _again: bool) -> None:
        result = read_row(folder, one.job.name)
        if result:
            found[one.job.name] = result
        if one.how is not How.STOPPED:
            tell(by_name[one.job.name], result, True)

    owned.make_folders(folder)
    with owned.temporary(folder, ".work-") as work:

        def begin(job: Job) -> Path:
            forget_row(folder, job.name)
            place = work / job.name
            place.mkdir()
            return place

        here = Place(HERE, cores(), max(memory.free(), MEMORY_OF_ROW))  # one row in any case
        Scheduler(Local(here, begin), on_end=ended, retry=False, limit=jobs).run(wanted)
    return [found[row.name] for row in rows if row.name in found]


def _words(row: Row, folder: Path, options: Sequence[str]) -> list[str]:
    return ["catalogue", "run", row.name, "--output", str(folder), "--row-only", *options]
