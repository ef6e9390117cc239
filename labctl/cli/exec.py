"""The verb `exec`: a command in a node, a router, several of them, or the lab's own namespaces."""

from __future__ import annotations

import os
import shlex
import sys
from functools import partial
from typing import Any, NoReturn

import click

from labctl.cli.guard import guard
from labctl.cli.options import json_option, print_json
from labctl.cli.process import become, become_untrusted
from labctl.errors import ExitCode, UsageError
from labctl.lab import targets
from labctl.lab.lab import Lab
from labctl.lab.run_everywhere import Outcome, run_everywhere

_NO_NODE = "labctl.no-node"


class _WithDashes(click.Command):
    """Notes whether a `--` stands where a node's name would: click takes it away."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            before, _, _ = self.make_parser(ctx).parse_args(list(args[: args.index("--")]))
            # Where none is left, click has no tuple of words there but a mark of its own.
            words = before.get("words")
            ctx.meta[_NO_NODE] = not (isinstance(words, tuple) and words)
        return super().parse_args(ctx, args)


@click.command(
    "exec",
    cls=_WithDashes,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option(
    "--lab", "-l", metavar="[NAME]", is_flag=False, flag_value="", envvar="LABCTL_LAB",
    show_envvar=True, help="Which lab; not needed while only one is up.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="In all nodes, beside each other.")
@click.option(
    "--label", "labels", multiple=True, metavar="KEY[=TEXT]",
    help="In the nodes and routers with this label; several must all be there.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(0.1, 86400), default=60.0, show_default=True,
    metavar="SECONDS", help="Of several, how long it may take in each.",
)  # fmt: skip
@json_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[NODE] [--] COMMAND...")
@click.pass_context
def execute(
    context: click.Context,
    lab: str | None,
    everything: bool,
    labels: tuple[str, ...],
    timeout: float,
    as_json: bool,
    words: tuple[str, ...],
) -> None:
    """Run COMMAND in NODE word by word, without a shell. NODE may be a router too.

    What it writes is passed on byte by byte, as ssh does: on a terminal that includes its escape
    sequences. `labctl exec NODE COMMAND | cat -v` shows them in safety.

    Without a NODE (`labctl exec -- COMMAND`) it runs in the lab's own namespaces, where its bridges
    and TAPs are: with this host's files, and the lab's /sys, read-only.

    With --all, --label, or a NODE that is a pattern or a list (`'vm*'`, `vm1,r1`) it runs in all
    that are meant, beside each other. Their output is shown line by line behind their names, clean;
    --json has it all. Exits with 0 when all exited with 0, 1 when some did not, 3 when it could not
    be run in some.
    """
    lab = lab or os.environ.get("LABCTL_LAB") or None
    several = everything or bool(labels)
    command = list(words)
    no_node = bool(context.meta.get(_NO_NODE))
    target = ""
    # With --label the first word is the command's, unless it can only mean nodes.
    named = not labels or bool(command and targets.is_pattern(command[0]))
    if named and not no_node and not everything:
        target = command.pop(0) if command else ""
        if not target:
            raise UsageError(
                "neither a node nor a command is named", "say which: labctl exec NODE -- COMMAND"
            )
    if command[:1] == ["--"]:  # click leaves it in, as it stands behind the first argument
        command = command[1:]
    if not command:
        where = target or "all of them" if several or target else "the lab"
        hint = f"for a shell: labctl ssh {target}" if target else "write it behind --"
        raise UsageError(f"no command to run in {where}", hint)
    running = Lab.attach(lab)
    if several or targets.is_pattern(target) or (as_json and target):
        names = targets.chosen(
            running.topology, pattern=target, everything=everything, labels=labels
        )
        sys.exit(_everywhere(running, names, command, timeout, as_json))
    if as_json:
        raise UsageError("--json is for commands in nodes and routers", "name one, or say --all")
    if no_node:
        _in_lab(running, command)
    _in_one(running, target, command)


def _in_lab(running: Lab, command: list[str]) -> NoReturn:
    if command[0] in (*running.topology.nodes, *running.topology.routers):
        raise UsageError(
            f"{command[0]} behind -- is a command, run in the lab's own namespaces",
            f"to run one in it: labctl exec {command[0]} -- COMMAND",
        )
    become(running.sandbox.words(command))


def _in_one(running: Lab, name: str, command: list[str]) -> NoReturn:
    if name in running.topology.routers:
        become(running.place(running.topology.routers[name].host).words(command, netns=name))
    words = running.node(name).words(shlex.join(command), shared=False)
    running.check_running(name)
    guard(partial(running.check_running, name))
    enter = become if running.node(name).model.guest_kind.is_machine else become_untrusted
    enter([*running.sandbox.enter(), *words])


def _everywhere(
    running: Lab, names: list[str], command: list[str], timeout: float, as_json: bool
) -> ExitCode:
    found: list[Outcome] = []
    for outcome in run_everywhere(running, names, command, timeout):
        found.append(outcome)
        if not as_json:
            _print(outcome)
    if as_json:
        told: dict[str, Any] = {"lab": running.name, "command": command}
        print_json(told | {"results": [one.to_json() for one in found]})
    running.close()
    if any(one.status is None for one in found):
        return ExitCode.ERROR
    return ExitCode.FAIL if any(one.status for one in found) else ExitCode.OK


def _print(outcome: Outcome) -> None:
    for text, stream in ((outcome.stdout, sys.stdout), (outcome.stderr, sys.stderr)):
        # Not click.echo: in a pipe it leaves out what it takes for colours.
        for line in text.removesuffix("\n").split("\n") if text else ():
            stream.write(f"{outcome.name}: {line}\n")
        stream.flush()
    if outcome.error:
        click.echo(f"{outcome.name}: {outcome.error}", err=True)
    elif outcome.status:
        click.echo(f"{outcome.name}: exited with {outcome.status}", err=True)


COMMANDS = (execute,)
