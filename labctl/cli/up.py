"""The verb that brings a lab up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from labctl.cli.display import display
from labctl.cli.words import accel_option, connect_option, json_option, print_json
from labctl.lab import ahead

if TYPE_CHECKING:
    from labctl.guests.accel import Policy


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
    agent = None if uri else ahead.start_agent()
    from labctl import topology
    from labctl.lab import state, status
    from labctl.lab.lab import Lab
    from labctl.topology import kept

    model = kept.load(topology.find(file))
    begun = time.monotonic()
    with display() as show:
        lab = Lab.up(model, name=name, policy=accel, uri=uri, emit=show, keep=True, agent=agent)
    lab.close()
    seconds = time.monotonic() - begun
    if as_json:
        told = status.describe(state.directory(lab.name))
        print_json(told | {"seconds": seconds, "timings": lab.timings})
        return
    nodes = ", ".join(model.nodes)
    click.echo(f"lab {lab.name} is up in {seconds:.1f} s: {nodes} ({lab.accel})")
    first = next((node.name for node in model.nodes.values() if not node.hypervisor), nodes)
    click.echo(f"try: labctl ssh {first}; take it down: labctl down {lab.name}")


COMMANDS = (up,)
