"""The verb `publish`: ports of this host that lead into guests."""

from __future__ import annotations

import click

from labctl.cli.options import json_option, lab_option, print_json, print_table
from labctl.errors import UsageError
from labctl.lab import publish as publishing
from labctl.lab import published
from labctl.lab.lab import Lab


@click.command("publish")
@lab_option
@click.option(
    "--listen", metavar="[ADDRESS:]PORT", default="",
    help="Where on this host. [default: any free port of 127.0.0.1]",
)  # fmt: skip
@click.option("--stop", metavar="[ADDRESS:]PORT", default="", help="Publish no more there.")
@json_option
@click.argument("target", required=False, metavar="[NODE:PORT]")
def publish(lab: str | None, listen: str, stop: str, as_json: bool, target: str | None) -> None:
    """Let a port of this host lead into a guest.

    That is TCP port PORT of NODE, until the lab ends; in the guest it is a connection to
    localhost, so what listens there alone is reached as well. Without a NODE:PORT what is published
    is listed.
    """
    if (stop and (target or listen)) or (listen and not target):
        raise UsageError(
            "these words contradict each other",
            "write labctl publish NODE:PORT [--listen PORT], or labctl publish --stop PORT",
        )
    port = publishing.port_of(target) if target else 0
    running = Lab.attach(lab)
    if target:
        made = [publishing.publish(running, target.partition(":")[0], port, listen)]
    elif stop:
        made = publishing.stop(running, stop)
    else:
        made = published.listed(running.directory, running.sandbox)
    running.close()
    if as_json:
        print_json({"lab": running.name, "published": [one.to_json() for one in made]})
    elif target:
        click.echo(f"{made[0].listens} leads to port {made[0].to} of {made[0].node}")
    elif stop:
        for one in made:
            click.echo(f"{one.listens} is no longer published")
    elif made:
        rows = [[one.listens, one.node, str(one.to)] for one in made]
        print_table(["this host", "node", "port"], rows)
    else:
        click.echo("nothing is published; publish a port: labctl publish vm1:80")


COMMANDS = (publish,)
