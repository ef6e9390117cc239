"""Verbs of records: list, show, compare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click

from labctl.cli.options import json_option, print_json, print_table, writable
from labctl.errors import ExitCode, UsageError
from labctl.results import archive, difference, matrix, store, tables
from labctl.results.tables import Table

results_option = click.option(
    "--results", "root", type=click.Path(path_type=Path), envvar="LABCTL_RESULTS",
    show_envvar=True, help="Where the records are.",
)  # fmt: skip


@dataclass(frozen=True)
class _Chosen:
    """What stands before the word that says what to do with records."""

    root: Path | None
    as_json: bool


def _print(found: Iterable[Table]) -> None:
    for table in found:
        print_table(table.columns, table.rows, table.title)


@click.group("results", invoke_without_command=True)
@results_option
@json_option
@click.pass_context
def results(context: click.Context, root: Path | None, as_json: bool) -> None:
    """List the recorded runs; show one, compare two, pass one on."""
    context.obj = _Chosen(root, as_json)
    if context.invoked_subcommand:
        return
    runs = store.list_runs(root)
    if as_json:
        print_json([run.to_json() for run in runs])
    elif not runs:
        click.echo("nothing is recorded yet; run: labctl experiment bridged")
    else:
        _print([tables.list_table(runs)])


@results.command()
@click.argument("run", default="last")
@json_option
@click.pass_obj
def show(chosen: _Chosen, run: str, as_json: bool) -> None:
    """Show arms, checks and environment of RUN.

    RUN is an id, a part of one, a run's folder, or `last` (default); `last~1` is the one before
    the last.
    """
    found = store.load(run, chosen.root)
    if as_json or chosen.as_json:
        print_json(found.to_json())
        return
    _print(tables.run_tables(found))
    if found.story:
        click.echo(found.story)
    for note in found.notes:
        click.echo(f"note: {note}")


@results.command()
@click.argument("a")
@click.argument("b", required=False)
@json_option
@click.pass_context
def diff(context: click.Context, a: str, b: str | None, as_json: bool) -> None:
    """Compare runs A and B: verdicts, checks and environment.

    Both may be folders, so that runs of two machines can be compared. B is `last` by default;
    `diff last` compares the last run with the one before of the same experiment. Folders of two
    matrices are compared cell by cell. Exits with 1 when verdicts differ.
    """
    chosen: _Chosen = context.obj
    if b is not None and matrix.holds(Path(a)) and matrix.holds(Path(b)):
        _diff_matrices(context, Path(a), Path(b), as_json or chosen.as_json)
        return
    if b is None:
        a, b = (store.before_last(chosen.root) if a == "last" else a), "last"
    one, other = store.load(a, chosen.root), store.load(b, chosen.root)
    if one.id == other.id and one == other:
        raise UsageError(f"{a} and {b} are one run, {one.id}", "name two: labctl results")
    found = difference.diff(one, other)
    if as_json or chosen.as_json:
        print_json(found.to_json())
    elif found.same:
        click.echo("the two runs do not differ in verdicts, checks or environment")
    else:
        _print(tables.difference_tables(found))
    if not found.same_verdicts:
        context.exit(ExitCode.FAIL)


def _diff_matrices(context: click.Context, a: Path, b: Path, as_json: bool) -> None:
    found = matrix.diff(matrix.read(a), matrix.read(b))
    if as_json:
        print_json(found.to_json())
    else:
        _print(tables.matrix_difference_tables(found, str(a), str(b)))
        click.echo(f"{found.same} cells came to the same")
    if found.changes:
        context.exit(ExitCode.FAIL)


@results.command("merge")
@click.argument(
    "folders", nargs=-1, required=True, metavar="PART...",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)  # fmt: skip
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="The folder of the whole."
)
@json_option
@click.pass_obj
def merge_parts(chosen: _Chosen, folders: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Join the PARTs of a matrix that were run with --shard, and make its pages.

    Each PART is a folder of `labctl matrix`, of this or another machine. Exits as the whole matrix
    would; a cell that is in no part is an error.
    """
    from labctl.cli import matrix as verb  # here: what lists records needs no more
    from labctl.matrix import merge

    made = merge.merge(folders, output)
    verb.write_pages(made, output)
    verb.finish(made, output, as_json=as_json or chosen.as_json)


@results.command("export")
@click.argument("run")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def export_run(chosen: _Chosen, run: str, file: Path, as_json: bool) -> None:
    """Write RUN to FILE, a tar archive: record, topology, captures and consoles."""
    writable(file)
    found = store.find(run, chosen.root)
    count = archive.export(found.path, file)
    if as_json or chosen.as_json:
        print_json({"run": found.id, "file": str(file), "files": count})
    else:
        click.echo(f"written: {file} ({found.id}, {count} files)")


@results.command("import")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@json_option
@click.pass_obj
def import_run(chosen: _Chosen, file: Path, as_json: bool) -> None:
    """Take in the run of FILE, as `results export` wrote it, beside those recorded here.

    Nothing of it is believed: what is no run, is damaged, or is not what it says is refused.
    """
    name, new = archive.bring_in(file, chosen.root)
    if as_json or chosen.as_json:
        print_json({"run": name, "new": new})
    else:
        click.echo(f"imported: {name}" if new else f"{name} is here already")


COMMANDS = (results,)
