"""Verbs of saved labs: `save`, `restore`, and `saves` for the list of them."""

from __future__ import annotations

from typing import Any

import click

from labctl.cli.display import display
from labctl.cli.options import json_option, lab_option, print_json, print_table
from labctl.lab import prestart, saves
from labctl.lab.saves import Save


@click.command("save")
@lab_option
@json_option
@click.argument("name", metavar="NAME")
def save(lab: str | None, as_json: bool, name: str) -> None:
    """Save a running lab under NAME; it goes on afterwards.

    Guests are saved with all that runs in them, and their disks; meanwhile they stand still. What
    cannot be saved is said. `labctl restore NAME` brings the lab up as it was.
    """
    from labctl.lab import saving
    from labctl.lab.lab import Lab

    with display() as show:
        running = Lab.attach(lab, show)
        made = saving.save(running, name)
        running.close()
    if as_json:
        print_json(_plain(made))
        return
    click.echo(f"lab {running.name} is saved as {name} ({made.size / 1e6:.0f} MB)")
    for note in made.notes:
        click.echo(f"note: {note}")
    click.echo(f"bring it up: labctl down {running.name}; labctl restore {name}")


@click.command("restore")
@click.option("--name", "lab_name", metavar="LAB", help="The lab's name; by default as saved.")
@json_option
@click.argument("name", metavar="NAME")
def restore(lab_name: str | None, as_json: bool, name: str) -> None:
    """Bring up the lab that was saved under NAME, as it was.

    Guests go on where they were, with the same addresses, keys and processes; their clocks are set.
    """
    agent = prestart.start_agent("")  # beside our own imports
    from labctl.lab import saving, status, teardown

    with display() as show:
        running = saving.restore(name, lab_name=lab_name, emit=show, keep=True, agent=agent)
    try:
        running.close()
        if as_json:
            told = status.describe(running.directory)
            print_json(told | {"seconds": running.timings["up"]})
        else:
            seconds = running.timings["up"]
            click.echo(f"lab {running.name} is up in {seconds:.1f} s, as it was saved in {name}")
    except BaseException:  # whoever is told of an error must not find a lab
        teardown.end(running.directory)
        raise


@click.group("saves", invoke_without_command=True)
@json_option
@click.pass_context
def group(context: click.Context, as_json: bool) -> None:
    """List the saved labs, or remove one."""
    if context.invoked_subcommand is None:
        _list(as_json)


@group.command("list")
@json_option
def list_saves(as_json: bool) -> None:
    """List the saved labs."""
    _list(as_json)


@group.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@json_option
def remove(names: tuple[str, ...], as_json: bool) -> None:
    """Remove saved labs by their NAMEs."""
    for name in names:
        saves.remove(name)
        if not as_json:
            click.echo(f"removed {name}")
    if as_json:
        print_json({"removed": list(names)})


def _list(as_json: bool) -> None:
    found = saves.listed()
    if as_json:
        print_json([_plain(one) for one in found])
    elif not found:
        click.echo("no lab is saved; save one that runs: labctl save NAME")
    else:
        rows = [_row(one) for one in found]
        print_table(["name", "lab", "saved", "guests", "size", "note"], rows)


def _row(one: Save | str) -> list[str]:
    if isinstance(one, str):
        return [one, "", "", "", "", "it cannot be used"]
    size = f"{one.size / 1e6:.0f} MB"
    guests = ", ".join(one.guests)
    return [one.name, one.state.name, one.saved, guests, size, "; ".join(one.notes)]


def _plain(one: Save | str) -> dict[str, Any]:
    if isinstance(one, str):
        return {"name": one, "problem": "it cannot be used"}
    return {
        "name": one.name,
        "lab": one.state.name,
        "saved": one.saved,
        "guests": list(one.guests),
        "size": one.size,
        "notes": one.notes,
        "path": str(one.folder),
    }


COMMANDS = (save, restore, group)
