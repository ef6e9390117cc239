"""Verbs of experiments: run them, list them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from labctl.cli import report
from labctl.cli.display import Display, display, paused
from labctl.cli.options import accel_option, cold_option, json_option, print_json, print_table
from labctl.cli.out import Styled, say
from labctl.errors import ExitCode
from labctl.experiments import installed, load, runner
from labctl.experiments.builtin import BUILTIN
from labctl.experiments.model import Experiment
from labctl.guests.accel import Policy
from labctl.jobs import child
from labctl.lab import handover
from labctl.lab.lab import Lab
from labctl.results.model import Run, Verdict, combine

EXITS = {
    Verdict.PASS: ExitCode.OK,
    Verdict.FAIL: ExitCode.FAIL,
    Verdict.ERROR: ExitCode.ERROR,
    Verdict.SKIP: ExitCode.SKIP,
}


@click.command("experiment")
@click.argument("names", nargs=-1, required=True, metavar="NAME|FILE...")
@accel_option
@cold_option
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    envvar="LABCTL_RESULTS",
    show_envvar=True,
    help="Record below this folder instead.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Run only the cases whose names fit, such as 'raw/*'; may be given several times.",
)
@click.option(
    "--topology",
    metavar="FILE",
    help="Run them on another topology, found as `labctl up` finds it.",
)
@click.option(
    "--kernel",
    "kernels",
    multiple=True,
    metavar="NAME|FILE",
    help="Run them with guests that boot this kernel: one of Debian's, such as debian-13, or a "
    "file; given several times, once with each.",
)
@click.option(
    "--nic", metavar="MODEL", default="", help="Run them with guests whose NICs are of this model."
)
@click.option(
    "--offload",
    metavar="LAYER.FEATURE=on|off",
    default="",
    help="Run them with these offloads in all guests, such as guest.tx=off,tap.tso=off.",
)
@click.option(
    "--keep-on-failure",
    "keep",
    is_flag=True,
    help="Stop at the first arm that does not pass and leave its lab up; see docs/experiments.md.",
)
@click.option("--report", "reports", is_flag=True, help="Make a page of each; see labctl report.")
@click.option(
    "--end-with-input", is_flag=True, hidden=True, help="End when the input does: internal."
)
@json_option
def run_experiments(
    names: tuple[str, ...],
    accel: Policy,
    cold: bool,
    results: Path | None,
    only: tuple[str, ...],
    topology: str | None,
    kernels: tuple[str, ...],
    nic: str,
    offload: str,
    keep: bool,
    reports: bool,
    end_with_input: bool,
    as_json: bool,
) -> None:
    """Run experiments by NAME or from a Python FILE of yours.

    `labctl experiments` lists the names; FILE::NAME is one of several in a file. Each gets a lab of
    its own, ends in a verdict, and is recorded; see `labctl results`.
    """
    if end_with_input:
        click.get_current_context().with_resource(child.ending_with_input())
    runs: list[tuple[Experiment, Run, Path]] = []
    found = load.find(list(names))
    if topology is not None:
        found = [one.on(topology) for one in found]
    if only:
        found = [one.select(only) for one in found]
    found = [run for one in found for run in one.by_kernel(kernels)]
    if nic or offload:
        found = [one.with_guests(nic, offload) for one in found]
    kept: list[Lab] = []
    try:
        for experiment in found:
            with display() as show:
                keeping = runner.Keeping(partial(_look, show), kept) if keep else None
                run, path = runner.run(
                    experiment,
                    policy=accel,
                    results=results,
                    emit=show,
                    keeping=keeping,
                    cold=cold,
                )
            runs.append((experiment, run, path))
            if not as_json:
                _print_page(run, path)
            if reports:
                page = report.write(run, path)
                click.echo(f"report: {page}", err=as_json)
    except KeyboardInterrupt:
        if not kept:
            raise
        click.echo("labctl: interrupted; what this command had brought up is down, but", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    finally:
        for lab in kept:
            _print_commands(f"lab {lab.name} stays up:", lab)
    if as_json:
        print_json(
            [
                {"path": str(path), **({"kernel": of.kernel} if of.kernel else {}), **run.to_json()}
                for of, run, path in runs
            ]
        )
    elif any(of.kernel for of, _, _ in runs):
        _print_kernels(runs)
    sys.exit(EXITS[combine(run.verdict for _, run, _ in runs)])


def _print_kernels(runs: Sequence[tuple[Experiment, Run, Path]]) -> None:
    """Print the verdicts of runs with several kernels, one line each."""
    rows = []
    for of, run, _ in runs:
        checks = [check for arm in run.arms for check in arm.checks]
        passed = sum(check.verdict is Verdict.PASS for check in checks)
        releases = ", ".join(sorted(set(run.environment.guest_kernels.values())))
        rows.append(
            [
                run.experiment,
                of.kernel,
                releases or "no guest told",
                str(run.verdict),
                f"{passed} of {len(checks)}",
            ]
        )
    click.echo("")
    print_table(["experiment", "kernel", "guests ran", "verdict", "checks passed"], rows)


def _look(show: Display, lab: Lab, what: str) -> None:
    """Stop in an arm that does not pass, where there is somebody at a terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    with paused(show):
        click.echo(f"{what}\n", err=True)
        _print_commands(f"lab {lab.name} is as this arm has it now. In another terminal:", lab)
        click.echo(
            "Enter ends the experiment and leaves the lab up, Ctrl-C takes it down.", err=True
        )
        sys.stdin.readline()


def _print_commands(title: str, lab: Lab) -> None:
    click.echo("\n  ".join([title, *handover.commands(lab)]), err=True)


def _print_page(run: Run, path: Path) -> None:
    click.echo("")
    say(Styled(run.experiment, bold=True))
    click.echo(run.hypothesis)
    click.echo("")
    if run.story:
        click.echo(run.story)
        click.echo("")
    colours = {Verdict.PASS: "green", Verdict.SKIP: "yellow"}
    for arm in run.arms:
        count = sum(check.verdict is Verdict.PASS for check in arm.checks)
        word = Styled(f"{arm.verdict:5}", fg=colours.get(arm.verdict, "red"))
        say("  ", word, f"  {arm.name}: {count} of {len(arm.checks)} checks pass")
        for check in arm.checks:
            if check.verdict is not Verdict.PASS:
                click.echo(
                    f"         {check.verdict} {check.name}: expected {check.expected}; "
                    f"observed {check.observed}"
                )
                for line in check.evidence:
                    click.echo(f"           {line}")
    for note in run.notes:
        click.echo(f"  note: {note}")
    click.echo("")
    word = Styled(str(run.verdict), fg=colours.get(run.verdict, "red"), bold=True)
    say("verdict: ", word, f" ({sum(run.timings.get(k, 0) for k in ('experiment',)):.0f} s)")
    click.echo(f"recorded: {path}")


@click.command("experiments")
@json_option
def list_experiments(as_json: bool) -> None:
    """List the experiments that can be run by name, one line each."""
    others = installed.entries()
    found = [*BUILTIN.values(), *(one.experiment for one in others if one.experiment)]
    for one in others:
        if one.problem:
            click.echo(f"labctl: {one.problem}", err=True)
    if as_json:
        print_json(
            [
                {
                    "name": one.name,
                    "topology": one.topology_name,
                    "summary": one.summary,
                    "hypothesis": one.hypothesis,
                }
                for one in found
            ]
        )
        return
    print_table(["experiment", "what it shows"], [[one.name, one.summary] for one in found])


COMMANDS = (run_experiments, list_experiments)
