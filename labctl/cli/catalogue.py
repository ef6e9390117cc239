"""The verb of the catalogue of paths: list its rows, run them, make its pages."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from labctl.cli.display import display
from labctl.cli.options import accel_option, cold_option, json_option, print_json, print_table
from labctl.errors import ExitCode, UsageError
from labctl.experiments.catalogue import rows, run
from labctl.experiments.catalogue.row import predict
from labctl.experiments.catalogue.rows import Row
from labctl.guests.accel import Policy
from labctl.jobs import child
from labctl.report import catalogue as pages
from labctl.results import catalogue as results
from labctl.results.catalogue import RowResult
from labctl.results.model import Verdict, combine
from labctl.results.recorder import results_root
from labctl.sandbox import atomic

EXITS = {
    Verdict.PASS: ExitCode.OK,
    Verdict.FAIL: ExitCode.FAIL,
    Verdict.ERROR: ExitCode.ERROR,
    Verdict.SKIP: ExitCode.SKIP,
}


@click.group("catalogue", invoke_without_command=True)
@json_option
@click.pass_context
def catalogue(context: click.Context, as_json: bool) -> None:
    """Show which paths keep, lose or complete checksums.

    Each row is a path between two guests, with what is expected of it by the kinds on it. Without
    a verb they are listed.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_rows, as_json=as_json)


@catalogue.command("list")
@json_option
def list_rows(as_json: bool) -> None:
    """List the rows: what is on the path, and what is expected of it."""
    told = [(row, predict(row)) for row in rows.ALL]
    if as_json:
        print_json(
            [
                {
                    "name": row.name,
                    "group": row.group,
                    "title": row.title,
                    "path": expected.text,
                    "outcome": expected.outcome,
                    "expected": expected.words,
                    "sources": list(row.sources),
                }
                for row, expected in told
            ]
        )
        return
    print_table(
        ["row", "path", "expected"],
        [[row.name, row.title, expected.outcome] for row, expected in told],
    )


@catalogue.command("run")
@click.argument("names", nargs=-1, metavar="[ROW...]")
@click.option("--output", type=click.Path(path_type=Path), help="Keep the catalogue there.")
@click.option("--jobs", type=click.IntRange(1, 64), help="How many rows are run at once, at most.")
@click.option("--again", is_flag=True, help="Run rows also that are known already.")
@click.option(
    "--markdown", type=click.Path(path_type=Path), help="Write the page for documentation, too."
)
@accel_option
@cold_option
@click.option(
    "--row-only", is_flag=True, hidden=True, help="Run them here, and write no pages: internal."
)
@json_option
def run_rows(
    names: tuple[str, ...],
    output: Path | None,
    jobs: int | None,
    again: bool,
    markdown: Path | None,
    accel: Policy,
    cold: bool,
    row_only: bool,
    as_json: bool,
) -> None:
    """Run the catalogue, or the rows that are named, and make its pages.

    A row that was run before on this kernel and has not changed is not run again; so what was
    interrupted goes on. Without --output it is kept beside the results.
    """
    chosen = [rows.find(name) for name in names] if names else list(rows.ALL)
    folder = output or results_root() / "catalogue"
    if markdown and not markdown.parent.is_dir():
        raise UsageError(f"there is no folder {markdown.parent}", "name one that is there")
    if row_only:
        with child.ending_with_input(), display() as show:
            found = [run.run_row(row, folder, policy=accel, emit=show, cold=cold) for row in chosen]
        sys.exit(EXITS[combine(one.verdict for one in found)])
    options = ["--accel", accel, *(["--cold"] if cold else [])]
    done = run.run_all(chosen, folder, options=options, jobs=jobs, again=again, tell=_tell)
    made = results.read_rows(folder, rows.names())
    data = results.write(folder, made)
    page = folder / results.PAGE
    atomic.write(page, pages.render(made), atomic.public())
    if markdown:
        atomic.write(markdown, pages.render_markdown(made), atomic.public())
    if as_json:
        print_json(results.to_json(results.Catalogue(tuple(done))))
    else:
        _show_places(done)
        click.echo(f"written: {data}, {page}")
    missing = [Verdict.ERROR] * (len(chosen) - len(done))
    sys.exit(EXITS[combine([*(one.verdict for one in done), *missing])])


def _show_places(done: Sequence[RowResult]) -> None:
    """Print which places the diagnosis named, by the kind of what stands at the expected one."""
    counted = [
        [what, *(str(counts[one]) for one in pages.NAMED)] for what, counts in pages.places(done)
    ]
    if counted:
        print_table(["expected at", *(f"{one} place named" for one in pages.NAMED)], counted)


def _tell(row: Row, found: RowResult | None, ran: bool) -> None:
    """Say what a row came to, on standard error."""
    if found is None:
        click.echo(f"error  {row.name}: its process ended without a result", err=True)
        return
    how = f"{found.seconds:.0f} s" if ran else "known"
    click.echo(f"{found.verdict:6} {row.name} ({found.outcome}): {how}", err=True)
    for line in found.differences:
        click.echo(f"       {line}", err=True)


COMMANDS = (catalogue,)
