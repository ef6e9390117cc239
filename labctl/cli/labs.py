"""Verbs on running labs: down, status, ssh, console, logs."""

from __future__ import annotations

import codecs
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

from labctl.cli import terminal
from labctl.cli.guard import guard
from labctl.cli.options import json_option, lab_option, print_json, print_table
from labctl.cli.process import become, become_untrusted
from labctl.errors import ExitCode, GuestError, LabctlError, UsageError
from labctl.guests import console as console_log
from labctl.lab import orphans, state, status, teardown
from labctl.lab.orphans import Orphan

if TYPE_CHECKING:
    from labctl.lab.lab import Lab

WATCH_SECONDS = 2.0


@click.command()
@click.argument("lab", required=False, envvar="LABCTL_LAB")
@click.option(
    "--lab", "-l", "named", metavar="NAME", help="The same as LAB, as other verbs have it."
)
@click.option("--all", "everything", is_flag=True, help="Take all labs of this user down.")
@json_option
@click.pass_context
def down(
    context: click.Context, lab: str | None, named: str | None, everything: bool, as_json: bool
) -> None:
    """Take LAB down, whatever state it is in.

    Without a name that is the lab that the environment variable LABCTL_LAB names, or the only one.
    """
    lost = orphans.find()
    folders = _but(state.known(), lost)
    labs: list[Path | Orphan] = [*folders, *lost]
    by_default = context.get_parameter_source("lab") is ParameterSource.ENVIRONMENT
    if named is not None:
        if lab not in (None, named) and not by_default:
            raise UsageError(
                f"{lab} and --lab {named} contradict each other", "give one of the two"
            )
        lab, by_default = named, False
    if lab and everything and not by_default:
        raise UsageError("a name and --all contradict each other", "give one of the two")
    if lab and not everything:
        chosen = [one for one in labs if one.name == lab]
        if not chosen:
            names = ", ".join(one.name for one in labs) or "none"
            which = f"{lab}, which LABCTL_LAB names" if by_default else lab
            raise UsageError(f"there is no lab {which}", f"there are: {names}")
    elif everything or len(labs) <= 1:
        chosen = labs
    else:
        names = ", ".join(one.name for one in labs)
        raise UsageError(f"there are several labs: {names}", "name one, or say --all")
    troubles = []
    for one in chosen:
        try:
            told = _end(one)
        except LabctlError as error:  # the others are to go all the same
            troubles.append(error)
        else:
            if not as_json:
                click.echo(told)
    if troubles:
        raise troubles[0]
    if as_json:
        print_json({"down": [one.name for one in chosen]})
    elif not chosen:
        click.echo("no lab is up")


def _end(lab: Path | Orphan) -> str:
    """End a lab and say so."""
    if isinstance(lab, Path):
        teardown.end(lab)
        return f"lab {lab.name} is down"
    lab.end()
    if lab.directory.is_dir() and not state.alive(lab.directory):
        teardown.end(lab.directory)  # what its PID 1 could not remove
    guests = f", with {', '.join(lab.guests)}" if lab.guests else ""
    return f"lab {lab.name} is down; it ran without its folder {lab.directory}{guests}"


def _but(folders: list[Path], lost: list[Orphan]) -> list[Path]:
    """Leave out the folders that do not tell of the labs which run there."""
    known = {one.directory for one in lost}
    return [folder for folder in folders if folder not in known or state.alive(folder)]


def _what(part: dict[str, str]) -> str:
    return f"{part['is']}, cloned" if part.get("start") == "cloned" else part["is"]


@click.command("status")
@click.option("--lab", "-l", metavar="NAME", help="Of this lab alone; of all by default.")
@click.option("--wide", "-W", is_flag=True, help="Show the interfaces too: MAC, MTU, other end.")
@click.option("--watch", "-w", is_flag=True, help="Show it again when it changes, until Ctrl-C.")
@json_option
def show_status(lab: str | None, wide: bool, watch: bool, as_json: bool) -> None:
    """Show every lab with its nodes, routers and networks."""
    if watch and as_json:
        raise UsageError("--watch shows tables", "for JSON, a line an event: labctl events")
    shown: list[dict[str, Any]] | None = None
    while True:
        unknown = orphans.find()
        labs = [status.describe(folder) for folder in _but(state.known(), unknown)]
        labs += [one.describe() for one in unknown]
        if lab is not None:
            labs = [one for one in labs if one["name"] == lab] or _none(lab, labs)
        if as_json:
            print_json(labs)
        elif labs != shown:
            if watch:
                _page(first=shown is None)
            _print_labs(labs, wide)
        sys.stdout.flush()
        if not watch:
            return
        shown = labs
        time.sleep(WATCH_SECONDS)


def _none(lab: str, labs: list[dict[str, Any]]) -> NoReturn:
    names = ", ".join(one["name"] for one in labs)
    hint = f"these are up: {names}" if names else "bring one up: labctl up bridged.yaml"
    raise UsageError(f"no lab {lab} is up", hint)


def _page(*, first: bool) -> None:
    """Begin a new page: on an empty screen, or in a pipe below what was there."""
    if sys.stdout.isatty():
        click.clear()
    elif not first:
        click.echo("")
    click.echo(time.strftime("%H:%M:%S"))


def _print_labs(labs: list[dict[str, Any]], wide: bool) -> None:
    if not labs:
        click.echo("no lab is up; bring one up: labctl up bridged.yaml")
    for lab in labs:
        title = f"{lab['name']}: {lab['state']}"
        if "problem" in lab:
            title += f": {lab['problem']}\n  {lab['hint']}"
        if "accel" in lab:
            title += f", {lab['accel']}, since {lab['started']}"
        elif lab.get("started"):
            title += f"\n  since {lab['started']}"
        rows = [
            [part["name"], _what(part), part["state"], part["image"], part["addresses"]]
            for part in lab.get("parts", [])
        ]
        lost = [
            f"  {part['name']} has no link on {interface}: {why}"
            for part in lab.get("parts", [])
            for interface, why in part.get("links", {}).items()
        ]
        lost += [
            f"  {part['name']}:{interface} is down; give it back its link: "
            f"labctl link {part['name']}:{interface} up"
            for part in lab.get("parts", [])
            for interface in part.get("links_down", ())
        ]
        lost += [
            f"  {one['listens']} leads to port {one['port']} of {one['node']}"
            for one in lab.get("published", [])
        ]
        if rows:
            print_table(["name", "what", "state", "image", "addresses"], rows, title)
        else:
            click.echo(title)
        for line in lost:
            click.echo(line)
        if wide:
            rows = [
                [
                    f"{part['name']}:{one['name']}",
                    one["network"] + (f"/{one['segment']}" if one["segment"] else ""),
                    one["kind"], one["mac"], str(one["mtu"]), one["outer"],
                    ", ".join(one["addresses"]),
                ]
                for part in lab.get("parts", [])
                for one in part.get("interfaces", [])
            ]  # fmt: skip
            head = ["interface", "network", "kind", "MAC", "MTU", "other end", "addresses"]
            if rows:
                print_table(head, rows)


@click.command(
    "ssh", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@lab_option
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh_to(lab: str | None, node: str, command: tuple[str, ...]) -> NoReturn:
    """Open a shell in NODE, or run COMMAND there.

    It goes over the management network, or enters a node that is a namespace. The words of COMMAND
    are joined and read by the shell in the guest, as ssh does. What NODE writes is passed on
    as it is, as ssh does too: on a terminal that includes its escape sequences.
    """
    running = _attach(lab)
    words = running.node(node).session(command)
    running.check_running(node)
    guard(partial(running.check_running, node))
    enter = become if running.node(node).model.guest_kind.is_machine else become_untrusted
    enter([*running.sandbox.enter(), *words])


def _attach(name: str | None) -> Lab:
    """Return a running lab; `status` and `down` do without what this imports."""
    from labctl.lab.lab import Lab

    return Lab.attach(name)


def _attach_console(name: str | None, node: str) -> Lab | Path:
    """Return a running lab in which a node has a console, or the folder of those in one coming up.

    Raises `UsageError` for a node that has none, `NotUpError` for one not started yet.
    """
    try:
        running = _attach(name)
    except state.NotUpError as coming:
        folder = state.find(name) / "console"
        started = sorted(log.stem for log in folder.glob("*.log"))
        if node not in started:
            hint = f"these have been started: {', '.join(started)}" if started else coming.hint
            what = f"{coming.message}, and {node} has not been started"
            raise state.NotUpError(what, hint) from None
        return folder
    running.check_console(node)
    return running


@click.command()
@lab_option
@click.argument("node")
def console(lab: str | None, node: str) -> None:
    """Talk to NODE's console; leave with Ctrl-].

    On a terminal what NODE writes goes there as it is, escape sequences and all, as over a serial
    line: `labctl logs` shows the same in safety. Anywhere else it is passed on as `labctl logs`
    prints it.
    """
    running = _attach_console(lab, node)
    if isinstance(running, Path):
        with terminal.socket_at(running / f"{node}.sock", node) as joined:
            terminal.talk(joined, node)
        return
    line = terminal.socket_at(running.directory / "console" / f"{node}.sock", node)
    if words := running.console_words(node):
        from labctl.guests import xen

        running.check_running(node)
        line = terminal.program([*running.sandbox.enter(), *words], xen.JOINED, node)
    with line as joined:
        terminal.talk(joined, node)


@click.command()
@lab_option
@click.option("--follow", "-f", is_flag=True, help="Go on as the console does.")
@click.argument("node")
def logs(lab: str | None, follow: bool, node: str) -> None:
    """Print what NODE's console has said.

    Of a console that says very much the beginning and the end are kept. What would act on a
    terminal, such as an escape sequence, is spelt out.
    """
    running = _attach_console(lab, node)
    folder = running if isinstance(running, Path) else running.directory / "console"
    log = folder / f"{node}.log"
    if not log.exists():
        raise GuestError(f"{node} has not been started yet", "run: labctl status")
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    begin = 0
    while True:
        try:
            size = log.stat().st_size
            if size < begin:
                begin = 0  # another log: the guest was started again
            for piece in console_log.pieces(log, begin, size):
                # Not click.echo: in a pipe it leaves out what it takes for colours.
                sys.stdout.write(decoder.decode(piece).replace("\r", ""))
            sys.stdout.flush()
        except FileNotFoundError:
            sys.exit(ExitCode.OK)  # the lab went down
        if not follow:
            return
        begin = size
        time.sleep(0.1)


COMMANDS = (down, show_status, ssh_to, console, logs)
