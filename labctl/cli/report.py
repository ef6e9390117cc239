"""The verb that makes a page of a record."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Any

import click

from labctl.cli.options import json_option, print_json, writable
from labctl.errors import LabctlError, UsageError
from labctl.lab import state, status
from labctl.report import gather, live, page
from labctl.results import Run, store
from labctl.sandbox import atomic

REPORT = "report.html"


def write(run: Run, directory: Path, output: Path | None = None) -> Path:
    """Write the report of the run recorded in `directory`, beside the record unless told where.

    Raises `LabctlError` where it cannot be written.
    """
    path = output or directory / REPORT
    write_whole(path, page.render(gather.from_record(directory, run)))
    return path


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears under its name only when it is whole.

    Raises `LabctlError` where it cannot be written.
    """
    try:
        atomic.write(path, text, atomic.public())
    except OSError as wrong:
        message = f"{path} cannot be written: {wrong.strerror}"
        raise LabctlError(message, "free some space or name another file") from None


@click.command("report")
@click.argument("run", default="last", metavar="[RUN]")
@click.option("--lab", "-l", metavar="NAME", help="Of this running lab as it is now, not of a run.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), metavar="FILE",
    help=f"Write it there; {REPORT} beside the record by default, LAB.html here.",
)  # fmt: skip
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
@click.option(
    "--results", "root", type=click.Path(path_type=Path), envvar="LABCTL_RESULTS",
    show_envvar=True, help="Where the records are.",
)  # fmt: skip
@json_option
def report(
    run: str,
    lab: str | None,
    output: Path | None,
    show: bool,
    root: Path | None,
    as_json: bool,
) -> None:
    """Make one HTML page of RUN, or of a running lab.

    RUN is an id, a part of one, a run's folder, or `last` (default). The page shows the topology
    with what every hop saw, a packet that failed beside one that did not, checks and environment.
    It loads nothing: send it, keep it, open it from disk.
    """
    if output is not None and output.is_dir():
        raise UsageError(f"{output} is a folder", "name the file to write: --output FILE")
    writable(output)
    if lab is not None:
        path = _of_lab(lab, run, output)
        _told({"lab": lab, "path": str(path)}, as_json)
        _open(path, show)
        return
    found = store.load(run, root)
    path = write(found, store.find(run, root).path, output)
    _told({"run": found.id, "verdict": found.verdict, "path": str(path)}, as_json)
    _open(path, show)


def _of_lab(lab: str, run: str, output: Path | None) -> Path:
    if run != "last":
        raise UsageError("a run and --lab contradict each other", "give one of the two")
    path = output or Path(f"{lab}.html")
    writable(path)
    folder = state.find(lab)
    described = status.describe(folder)
    write_whole(path, live.render(described, state.load(folder).topology))
    return path


def _told(known: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(known)
    else:
        click.echo(known["path"])


def _open(path: Path, show: bool) -> None:
    if show and not webbrowser.open(path.resolve().as_uri()):
        raise LabctlError("no browser could be opened", f"open this file yourself: {path}")


COMMANDS = (report,)
