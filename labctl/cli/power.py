"""The verbs `start`, `stop` and `restart`: single nodes of a running lab."""

from __future__ import annotations

from collections.abc import Callable

import click

from labctl.cli.display import display
from labctl.cli.options import json_option, lab_option, print_json
from labctl.errors import UsageError
from labctl.lab import power, targets
from labctl.lab.lab import Lab

_seconds = click.option(
    "--timeout", type=click.FloatRange(0, 3600), default=power.ORDERLY_SECONDS, show_default=True,
    metavar="SECONDS", help="How long a guest with a disk may take to shut down; 0: end it.",
)  # fmt: skip
_nodes = click.argument("words", nargs=-1, required=True, metavar="NODE...")


@click.command("start")
@lab_option
@json_option
@_nodes
def start(lab: str | None, as_json: bool, words: tuple[str, ...]) -> None:
    """Start NODEs that were stopped, or have ended.

    It waits until they are ready. A guest with a disk finds there what it wrote; one without begins
    anew. NODE may be a pattern (`'vm*'`).
    """
    _change(lab, words, as_json, power.start, "started", "runs already")


@click.command("stop")
@lab_option
@_seconds
@json_option
@_nodes
def stop(lab: str | None, timeout: float, as_json: bool, words: tuple[str, ...]) -> None:
    """Stop NODEs of a running lab.

    `labctl start` starts them again. A guest with a disk is asked to shut down, by its power
    button. What other guests hold is in memory, and they are ended at once. NODE may be a pattern
    (`'vm*'`).
    """

    def change(running: Lab, names: list[str]) -> list[str]:
        return power.stop(running, names, seconds=timeout)

    _change(lab, words, as_json, change, "stopped", "is stopped already")


@click.command("restart")
@lab_option
@_seconds
@json_option
@_nodes
def restart(lab: str | None, timeout: float, as_json: bool, words: tuple[str, ...]) -> None:
    """Stop NODEs and start them.

    They are stopped as by `labctl stop`. NODE may be a pattern (`'vm*'`).
    """

    def change(running: Lab, names: list[str]) -> list[str]:
        power.restart(running, names, seconds=timeout)
        return names

    _change(lab, words, as_json, change, "restarted", "")


def _change(
    lab: str | None,
    words: tuple[str, ...],
    as_json: bool,
    change: Callable[[Lab, list[str]], list[str]],
    done: str,
    already: str,
) -> None:
    with display() as show:
        running = Lab.attach(lab, show)
        names = _names(running, words)
        changed = change(running, names)
        states = {name: power.state(running, name) for name in names}
        running.close()
    if as_json:
        nodes = [{"name": n, "state": states[n], "changed": n in changed} for n in names]
        print_json({"lab": running.name, "nodes": nodes})
        return
    for name in names:
        click.echo(f"{name} {done if name in changed else already}")


def _names(running: Lab, words: tuple[str, ...]) -> list[str]:
    """Return the nodes that words mean; a pattern leaves out routers, which are no nodes."""
    found: list[str] = []
    nodes = running.topology.nodes
    for word in words:
        if targets.is_pattern(word):
            meant = targets.chosen(running.topology, pattern=word)
            if not (some := [name for name in meant if name in nodes]):
                raise UsageError(f"{word} means routers only", "name a node: labctl status")
            found += some
        elif word in running.topology.routers:
            raise UsageError(
                f"{word} is a router, which runs as long as its lab",
                f"to cut it off: labctl link {word}:INTERFACE down",
            )
        else:
            found.append(running.node(word).name)
    return list(dict.fromkeys(found))


COMMANDS = (start, stop, restart)
