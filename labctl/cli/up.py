"""The verb that brings a lab up."""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import click

from labctl.cli.display import display
from labctl.cli.options import (
    accel_option,
    cold_option,
    connect_option,
    json_option,
    print_json,
    print_table,
)
from labctl.errors import LabctlError, UsageError
from labctl.events import Emit, Event
from labctl.guests import driver
from labctl.guests.spec import NO_MACHINES
from labctl.lab import prestart

if TYPE_CHECKING:
    from labctl.guests.accel import Policy
    from labctl.lab.lab import Lab
    from labctl.topology.model import Topology


@click.command()
@click.argument("file")
@click.option("--name", metavar="NAME", help="The lab's name; by default its topology's.")
@accel_option
@cold_option
@connect_option
@click.option(
    "--kernel", metavar="NAME|FILE",
    help="Let guests boot this kernel: one of Debian's, such as debian-13, or a file.",
)  # fmt: skip
@click.option(
    "--publish", "ports", multiple=True, metavar="[[ADDRESS:]PORT:]NODE:PORT",
    help="Let a port of this host lead into a node, as labctl publish does.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would change of a lab that is up.")
@click.option("--profile", is_flag=True, help="Say where the time went, stage by stage.")
@json_option
def up(
    file: str,
    name: str | None,
    accel: Policy,
    cold: bool,
    uri: str,
    kernel: str | None,
    ports: tuple[str, ...],
    dry_run: bool,
    profile: bool,
    as_json: bool,
) -> None:
    """Bring the topology FILE up: all of it, or nothing stays.

    FILE is a path, or the name of a file in this folder or of a shipped one (bridged.yaml).

    Where the lab of this FILE is up already, it is changed to what the FILE says now: nodes that
    are the same go on, others are restarted. --dry-run tells which.
    """
    # Beside our own imports, and reading the topology; should that fail, it ends with this process.
    agent = prestart.start_agent(uri)
    from labctl import topology
    from labctl.lab import status, teardown
    from labctl.lab.lab import Lab
    from labctl.topology import load_cache

    model = load_cache.load(topology.find(file))
    if kernel is not None:
        from labctl.images import recipe_paths  # here: most labs need neither
        from labctl.topology import kernels

        model = kernels.with_kernel(model, kernel)
        for name_of in {kernels.of(node) for node in model.nodes.values()} - {""}:
            recipe_paths.check_kernel(name_of)
    if running := _running(model, name):
        _converge(running, model, dry_run=dry_run, as_json=as_json)
        return
    if dry_run:
        raise UsageError("no lab of this file is up, so all of it is new", "leave --dry-run away")
    begun = time.monotonic()
    stages = Stages()
    with display() as show:
        emit = stages.beside(show)
        lab = Lab.up(
            model, name=name, policy=accel, uri=uri, emit=emit, keep=True, cold=cold, agent=agent
        )
    published = []
    try:
        if ports:
            from labctl.lab import publish  # here: most labs have none

            published = [publish.publish_word(lab, word) for word in ports]
        lab.close()
        seconds = time.monotonic() - begun
        if as_json:
            told = status.describe(lab.directory)
            told |= {"seconds": seconds, "timings": lab.timings}
            print_json(told | ({"guests": stages.of} if profile else {}))
        else:
            _tell(lab, seconds)
            for one in published:
                click.echo(f"{one.listens} leads to port {one.to} of {one.node}")
            if profile:
                _profile(lab, seconds, stages)
        sys.stdout.flush()
    except BaseException:  # whoever is told of an error must not find a lab
        teardown.end(lab.directory)
        raise


def _running(model: Topology, name: str | None) -> Lab | None:
    """Return the lab that is up of the same file and under the same name; None where none is."""
    from labctl.lab import naming, state

    try:
        folder = state.directory(naming.from_topology(model.name) if name is None else name)
        if not state.alive(folder):
            return None
        known = state.load(folder)
    except LabctlError:  # it cannot be, is coming up, or not understood: told when it is made
        return None
    if not known.complete or not model.source or known.topology.source != model.source:
        return None
    from labctl.lab.lab import Lab

    return Lab.attach(folder.name)


def _converge(running: Lab, model: Topology, *, dry_run: bool, as_json: bool) -> None:
    from labctl.lab import converge

    if dry_run:
        todo = converge.plan(running, model)
    else:
        with display() as show:
            running.close()
            running = type(running).attach(running.name, show)
            todo = converge.converge(running, model)
    running.close()
    if as_json:
        print_json(
            {"lab": running.name, "plan": todo.to_json(), "changed": bool(todo and not dry_run)}
        )
        return
    for line in todo.lines():
        click.echo(line)
    if not todo:
        click.echo(f"lab {running.name} is up, and as the file says")
    elif not dry_run:
        click.echo(f"lab {running.name} is up, and as the file says now")


class Stages:
    """Gathers how long each stage of each guest's start took."""

    def __init__(self) -> None:
        """Gather nothing yet."""
        self.of: dict[str, dict[str, float]] = {}
        """Seconds by guest and stage."""

    def beside(self, show: Emit) -> Emit:
        """Return what takes events and hands them on."""

        def emit(event: Event) -> None:
            if event.stage == driver.STAGES:
                pairs = (word.partition("=") for word in event.detail.split())
                self.of[event.subject] = {name: float(taken) for name, _, taken in pairs}
            else:
                show(event)

        return emit


def _profile(lab: Lab, seconds: float, stages: Stages) -> None:
    """Print where the time went: of the lab by stage, and of its guests by stage."""
    timings = {name: taken for name, taken in lab.timings.items() if name != "up"}
    rest = {"start": seconds - lab.timings["up"], **timings}
    rest["rest"] = seconds - sum(rest.values())
    rows = [[name, f"{taken:.3f}"] for name, taken in rest.items()]
    print_table(["stage of the lab", "seconds"], rows)
    names = list(dict.fromkeys(name for laps in stages.of.values() for name in laps))
    found = {name: [laps[name] for laps in stages.of.values() if name in laps] for name in names}
    rows = [
        [name, str(len(taken)), f"{median(taken):.3f}", f"{max(taken):.3f}"]
        for name, taken in found.items()
    ]
    print_table(["stage of a guest", "guests", "median, s", "longest, s"], rows)


def _tell(lab: Lab, seconds: float) -> None:
    from labctl.lab import state

    nodes = lab.topology.nodes
    names = ", ".join(nodes)
    by = "no machines" if lab.accel == NO_MACHINES else lab.accel
    click.echo(f"lab {lab.name} is up in {seconds:.1f} s: {names} ({by})")
    first = next((node.name for node in lab.topology.endpoints()), names)
    others = any(one.name != lab.name and state.alive(one) for one in state.known())
    which = f"--lab {lab.name} " if others else ""  # else `ssh` would ask which lab is meant
    click.echo(f"try: labctl ssh {which}{first}; take it down: labctl down {lab.name}")


COMMANDS = (up,)
