"""The verb of matrices: many experiments under many conditions, here or on other machines."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from labctl.cli import report
from labctl.cli.experiments import EXITS
from labctl.cli.options import json_option, print_json, print_table, printable_json
from labctl.errors import LabctlError, UsageError, shown
from labctl.matrix import cells, cluster, engines, file, progress, run
from labctl.matrix.cells import Planned
from labctl.matrix.cluster import Keys
from labctl.matrix.file import Written
from labctl.report import matrix as pages
from labctl.results import matrix, matrix_junit, store
from labctl.results.matrix import Matrix
from labctl.results.model import Verdict
from labctl.results.recorder import results_root
from labctl.sandbox import atomic

F = TypeVar("F", bound=Callable[..., Any])
_SHARD = re.compile(r"([0-9]{1,5})/([0-9]{1,5})")
_YAML = (".yaml", ".yml")


def tls_options(function: F) -> F:
    """Add the files of TLS, for dask's schedulers."""
    for name, what in (
        ("key", "The private key of --tls-cert."),
        ("cert", "This side's certificate, for a scheduler at tls://…"),
        ("ca", "The certificate of who signs all others."),
    ):
        path = click.Path(path_type=Path, exists=True, dir_okay=False)
        function = click.option(f"--tls-{name}", type=path, metavar="FILE", help=what)(function)
    return function


@click.command("matrix")
@click.argument("names", nargs=-1, required=True, metavar="FILE|EXPERIMENT...")
@click.option(
    "--axis", "axes", multiple=True, metavar="AXIS=VALUE,...",
    help="The values of an axis, such as kernel=debian-12,debian-13; in place of the file's.",
)  # fmt: skip
@click.option("--repeat", type=click.IntRange(1, file.MOST_REPEATS), help="Run each cell N times.")
@click.option("--timeout", metavar="DURATION", help="End a cell that takes longer, such as 20m.")
@click.option("--dry-run", is_flag=True, help="List the cells, and run none.")
@click.option(
    "--local", "limit", type=click.IntRange(1, 4096), metavar="N",
    help="On this machine, N at once at most. Never more than it has cores and memory for.",
)  # fmt: skip
@click.option(
    "--ssh", "hosts", multiple=True, metavar="HOST",
    help="On HOST, by ssh, as ssh(1) finds it; may be given several times.",
)  # fmt: skip
@click.option(
    "--remote", "program", metavar="PATH", default="labctl", show_default=True,
    help="What labctl is called on those hosts.",
)  # fmt: skip
@click.option(
    "--ssh-config", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="The configuration of ssh(1), in place of yours.",
)  # fmt: skip
@click.option(
    "--scheduler", metavar="ADDRESS",
    help="On the workers of a dask scheduler, such as tcp://127.0.0.1:8786 (labctl[cluster]).",
)  # fmt: skip
@tls_options
@click.option("--shard", metavar="K/N", help="Run only part K of N; `results merge` joins them.")
@click.option(
    "--again", multiple=True, type=click.Choice([*(str(one) for one in Verdict), "all"]),
    help="Run cells also that came to this verdict; may be given several times.",
)  # fmt: skip
@click.option(
    "--mixed", is_flag=True,
    help="Take workers of other versions too, and tell which cells they ran.",
)  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), help="Keep the matrix there.")
@click.option("--report", "reports", is_flag=True, help="Make a page of each run, too.")
@click.option("--json-lines", is_flag=True, help="Print what happens, a JSON object a line.")
@json_option
def run_matrix(
    names: tuple[str, ...],
    axes: tuple[str, ...],
    repeat: int | None,
    timeout: str | None,
    dry_run: bool,
    limit: int | None,
    hosts: tuple[str, ...],
    program: str,
    ssh_config: Path | None,
    scheduler: str | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    shard: str | None,
    again: tuple[str, ...],
    mixed: bool,
    output: Path | None,
    reports: bool,
    json_lines: bool,
    as_json: bool,
) -> None:
    """Run experiments under all combinations of conditions.

    Those are kernels, NICs, offloads, topologies and the experiments' own cases. FILE is a matrix
    in YAML (docs/matrix.md); EXPERIMENTs and --axis do without. Each cell is a process of its own.
    What has a result is not run again, so what was interrupted goes on.
    """
    written = _written(names, axes, repeat, timeout)
    every = cells.plan(written)
    part = _shard(shard, every)
    if dry_run:
        _list(part, as_json or json_lines)
        return
    _check_places(limit, hosts, scheduler)
    folder = output or results_root() / "matrix" / written.name
    wanted = run.Wanted(
        written.name, every, folder, shard or "", part if shard else (), again, limit
    )
    tell = _print_line if json_lines else _tell
    keys = Keys(tls_ca, tls_cert, tls_key)
    elsewhere = engines.Elsewhere(hosts, program, ssh_config, scheduler or "", keys, mixed)
    make = engines.choose(elsewhere, wanted.ours, tell)
    try:
        made = run.run(wanted, make, tell)
    except KeyboardInterrupt:
        if matrix.holds(folder):
            _write_pages(folder, reports=False)
        raise
    _write_pages(folder, reports=reports)
    finish(made, folder, as_json=as_json, json_lines=json_lines)


def finish(made: Matrix, folder: Path, *, as_json: bool, json_lines: bool = False) -> NoReturn:
    """Say what a matrix came to, and exit so."""
    found = {str(one): sum(each.verdict is one for each in made.wanted) for one in Verdict}
    found[matrix.NOT_RUN] = sum(each.verdict is None for each in made.wanted)
    if json_lines:
        _print_line(
            {
                "event": "done", "verdict": str(made.verdict), "folder": str(folder),
                "counts": found,
            }
        )  # fmt: skip
    elif as_json:
        print_json(matrix.to_json(made))
    else:
        counts = [f"{count} {name}" for name, count in found.items() if count]
        click.echo(f"{made.name}: {made.verdict} ({', '.join(counts)})")
        click.echo(f"written: {folder / matrix.PAGE}")
    sys.exit(EXITS[made.verdict])


def _written(
    names: Sequence[str], axes: Sequence[str], repeat: int | None, timeout: str | None
) -> Written:
    """Return the matrix that the words of the command mean."""
    files = [name for name in names if name.endswith(_YAML)]
    if files and len(names) > 1:
        raise UsageError(f"{files[0]} is a matrix of its own", "name it alone")
    if files:
        made = file.load(Path(files[0]))
    else:
        stem = "-".join(Path(name.rpartition("::")[2]).stem for name in names)
        made = Written(re.sub(r"[^A-Za-z0-9_.-]+", "-", stem)[:60] or "matrix", names, {})
    told = dict(made.axes)
    for word in axes:
        axis, equals, values = word.partition("=")
        if not equals or not axis or not values:
            raise UsageError(
                f"{shown(word)} is no axis", "write such as kernel=debian-12,debian-13"
            )
        told[axis] = {one: one for one in values.split(",")}
    made = replace(made, axes=told)
    if repeat:
        made.repeat = repeat
    if timeout:
        made.timeout = _duration(timeout)
    return made


def _duration(text: str) -> float:
    from pydantic_core import PydanticCustomError

    try:
        return file.duration(text)
    except PydanticCustomError as error:
        context = error.context or {}
        raise UsageError(str(context["message"]), str(context["hint"])) from None


def _shard(shard: str | None, every: Sequence[Planned]) -> Sequence[Planned]:
    if shard is None:
        return every
    found = _SHARD.fullmatch(shard)
    part, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= part <= count:
        raise UsageError(f"{shown(shard)} is no part", "write K/N, such as 1/4")
    return cells.shard(every, part, count)


def _check_places(limit: int | None, hosts: Sequence[str], scheduler: str | None) -> None:
    named = [
        option
        for option, given in (("--local", limit), ("--ssh", hosts), ("--scheduler", scheduler))
        if given
    ]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} contradict each other", "give one of them")


def _list(found: Sequence[Planned], as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "cell": one.cell.key, "name": one.cell.name,
                    "experiment": one.cell.experiment, "labels": one.cell.labels,
                    "repeat": one.cell.repeat, "command": one.cell.command,
                    "cores": one.need.cores, "memory": one.need.memory, "timeout": one.timeout,
                    "digest": one.cell.digest,
                }
                for one in found
            ]
        )  # fmt: skip
        return
    print_table(
        ["cell", "cores", "MiB", "command"],
        [
            [one.cell.name, str(one.need.cores), str(one.need.memory), one.cell.command]
            for one in found
        ],
        f"{len(found)} cells",
    )


def _print_line(event: dict[str, Any]) -> None:
    click.echo(printable_json(json.dumps(event)))


def _tell(event: dict[str, Any]) -> None:
    """Say what happens, on standard error."""
    match event["event"]:
        case "plan":
            part = f", part {event['shard']}" if event["shard"] else ""
            known = f", {event['known']} known already" if event["known"] else ""
            click.echo(f"{event['matrix']}{part}: {event['cells']} cells{known}", err=True)
        case "place":
            click.echo(f"       {event['place']}: {event['words']}", err=True)
        case "end":
            how = f"{event['seconds']:.0f} s, {event['place'] or 'nowhere'}"
            left = progress.words(event["seconds_left"]) if event["done"] < event["total"] else ""
            count = f"[{event['done']}/{event['total']}]"
            told = "; ".join(filter(None, (how, left)))
            click.echo(f"{count} {event['verdict']:5} {event['name']} ({told})", err=True)
            if event["reason"]:
                more = ", and is tried once more" if event["again"] else ""
                click.echo(f"       {event['how']}: {event['reason']}{more}", err=True)


def _write_pages(folder: Path, *, reports: bool) -> None:
    """Write what is made of a matrix: its page and its JUnit file, and pages of its runs."""
    made = matrix.read(folder)
    if reports:
        for one in made.wanted:
            if one.last and one.last.run:
                path = folder / matrix.RUNS / one.last.run
                summary = store.at(path)
                if summary.run and not (path / report.REPORT).exists():
                    report.write(summary.run, path)
    write_pages(made, folder)


def write_pages(made: Matrix, folder: Path) -> None:
    """Write the page and the JUnit file of a matrix; raises `LabctlError`."""
    report.write_whole(folder / matrix.PAGE, pages.render(made, folder))
    try:
        atomic.write(folder / matrix.JUNIT, matrix_junit.render(made), atomic.public())
    except OSError as error:
        raise LabctlError(f"{folder / matrix.JUNIT} cannot be written: {error.strerror}") from None


@click.command("matrix-worker")
@click.option("--facts", "tell_facts", is_flag=True, help="Say what this machine is, and end.")
@click.option("--one", is_flag=True, help="Run one cell that standard input tells of.")
@click.option("--cores", type=click.IntRange(1, 4096), help="Give away so many; all by default.")
@click.option("--memory", type=click.IntRange(1), help="MiB to give away; what is free by default.")
@tls_options
@click.argument("address", required=False)
def run_worker(
    tell_facts: bool,
    one: bool,
    cores: int | None,
    memory: int | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    address: str | None,
) -> None:
    """Run cells of matrices that another machine sends.

    With the ADDRESS of a dask scheduler this is a worker of it until it is interrupted. The rest is
    for `labctl matrix --ssh`, which calls it.
    """
    from labctl.matrix import worker  # here: who runs a matrix at home needs it not

    if tell_facts:
        click.echo(worker.FACTS.dump_json(worker.facts()).decode())
    elif one:
        worker.serve_here()
    elif address:
        cluster.serve(address, Keys(tls_ca, tls_cert, tls_key), (cores, memory))
    else:
        raise UsageError(
            "no scheduler is named", "such as: labctl matrix-worker tcp://127.0.0.1:8786"
        )


COMMANDS = (run_matrix, run_worker)
