"""The verb that brings a lab up."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from labctl.cli.display import display
from labctl.cli.options import accel_option, connect_option, json_option, print_json
from labctl.lab import prestart

if TYPE_CHECKING:
    from labctl.guests.accel import Policy
    from labctl.lab.lab import Lab


@click.command()
@click.argument("file")
@click.option("--name", metavar="NAME", help="Name the lab other than its topology.")
@accel_option
@connect_option
@json_option
def up(file: str, name: str | None, accel: Policy, uri: str, as_json: bool) -> None:
    """Bring the topology FILE up: all of it, or nothing stays.

    FILE is a path, or the name of a file in this folder or of a shipped one (bridged.yaml).
    """
    # Beside our own imports, and reading the topology; should that fail, it ends with this process.
    agent = prestart.start_agent(uri)
    from labctl import topology
    from labctl.lab import status, teardown
    from labctl.lab.lab import Lab
    from labctl.topology import load_cache

    model = load_cache.load(topology.find(file))
    begun = time.monotonic()
    with display() as show:
        lab = Lab.up(model, name=name, policy=accel, uri=uri, emit=show, keep=True, agent=agent)
    try:
        lab.close()
        seconds = time.monotonic() - begun
        if as_json:
            told = status.describe(lab.directory)
            print_json(told | {"seconds": seconds, "timings": lab.timings})
        else:
            _tell(lab, seconds)
        sys.stdout.flush()
    except BaseException:  # whoever is told of an error must not find a lab
        teardown.end(lab.directory)
        raise


def _tell(lab: Lab, seconds: float) -> None:
    nodes = lab.topology.nodes
    names = ", ".join(nodes)
    click.echo(f"lab {lab.name} is up in {seconds:.1f} s: {names} ({lab.accel})")
    first = next((node.name for node in lab.topology.endpoints()), names)
    click.echo(f"try: labctl ssh {first}; take it down: labctl down {lab.name}")


COMMANDS = (up,)
