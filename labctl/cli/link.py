"""The verb `link`: links of a running lab, down and up, and worse than they are."""

from __future__ import annotations

import click

from labctl.cli.options import json_option, lab_option, print_json, print_table
from labctl.errors import UsageError
from labctl.lab import link_changes, ports
from labctl.lab.lab import Lab
from labctl.lab.link_changes import PortState
from labctl.lab.ports import Port
from labctl.topology.impairment import Impairment, reading

_STATES = ("down", "up")


@click.command("link")
@lab_option
@click.option("--delay", metavar="TIME", help="Later by this much, such as 20ms.")
@click.option("--jitter", metavar="TIME", help="The delay is more or less by up to this.")
@click.option("--loss", metavar="PERCENT", help="So many frames are lost, such as 1%.")
@click.option("--duplicate", metavar="PERCENT", help="So many come twice.")
@click.option("--corrupt", metavar="PERCENT", help="In so many a bit is flipped.")
@click.option("--reorder", metavar="PERCENT", help="So many overtake those that are delayed.")
@click.option("--rate", metavar="RATE", help="No more than this, such as 10mbit.")
@click.option("--clear", is_flag=True, help="Impair it no more.")
@json_option
@click.argument("words", nargs=-1, metavar="[NODE:INTERFACE...] [down|up]")
def link(
    lab: str | None, clear: bool, as_json: bool, words: tuple[str, ...], **impairment: str | None
) -> None:
    """Take links down and up, or impair them.

    NODE:INTERFACE is an interface of a node or a router (vm1:eth0, r1:eth1). `down` takes its
    carrier, as pulling the cable does; `up` gives it back. An impairment is for frames on their way
    to that interface, in place of an earlier one; name both ends for both directions. It takes the
    kernel's netem. Without any of these all interfaces are listed.
    """
    given = {name: text for name, text in impairment.items() if text is not None}
    state = words[-1] if words and words[-1] in _STATES else ""
    names = words[:-1] if state else words
    _check(names, state, given, clear)
    wanted = reading(given) if given else Impairment()
    running = Lab.attach(lab)
    chosen = [ports.port(running.topology, name) for name in dict.fromkeys(names)]
    if state:
        link_changes.set_carrier(running, chosen, state == "up")
    if given or clear:
        link_changes.impair(running, chosen, wanted)
    states = link_changes.states(running)
    running.close()
    shown = [one for one in states if not chosen or one.port in chosen]
    if as_json:
        print_json({"lab": running.name, "links": [one.to_json() for one in shown]})
    elif chosen:
        for one in shown:
            click.echo(_told(one))
    else:
        rows = [
            [one.port.name, one.port.interface.network, _state(one), one.port.outer]
            for one in shown
        ]
        print_table(["interface", "network", "state", "other end"], rows)


def _check(names: tuple[str, ...], state: str, given: dict[str, str], clear: bool) -> None:
    if clear and given:
        raise UsageError("--clear and an impairment contradict each other", "give one of the two")
    if (state or given or clear) and not names:
        raise UsageError("no interface is named", "name one: labctl link vm1:eth0 down")
    if names and not (state or given or clear):
        if len(names) > 1 and ":" not in names[-1]:
            raise UsageError(f"a link is down or up, not {names[-1]}", "write one of the two")
        raise UsageError(
            "nothing is said of what is to happen",
            f"write down, up, or an impairment: labctl link {names[0]} --delay 20ms",
        )


def _state(one: PortState) -> str:
    return "down" if one.down else str(one.impairment) or "up"


def _told(one: PortState) -> str:
    return f"{_name(one.port)} is {'down' if one.down else 'up'}" + (
        f", and what reaches it has {one.impairment}" if one.impairment else ""
    )


def _name(port: Port) -> str:
    return f"{port.name} (on {port.interface.network})"


COMMANDS = (link,)
