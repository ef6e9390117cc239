"""Which verbs there are, and in which module; each is imported only when it is wanted."""

from __future__ import annotations

from importlib import import_module

import click

VERBS = {
    "catalogue": "catalogue",
    "console": "labs",
    "diagnose": "diagnose",
    "doctor": "checks",
    "down": "labs",
    "exec": "labs",
    "experiment": "experiments",
    "experiments": "experiments",
    "explain": "explain",
    "image": "image",
    "inspect": "inspect",
    "kinds": "kinds",
    "logs": "labs",
    "report": "report",
    "results": "results",
    "schema": "checks",
    "ssh": "labs",
    "status": "labs",
    "trace": "trace",
    "up": "up",
    "validate": "checks",
}
"""Every verb, and the module of this room that has it in its `COMMANDS`."""


class Verbs(click.Group):
    """Imports a verb's module only when it is wanted: `ssh` must not wait for experiments."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of all verbs."""
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return a verb by its name."""
        if cmd_name not in VERBS:
            return None
        module = import_module(f"labctl.cli.{VERBS[cmd_name]}")
        commands: tuple[click.Command, ...] = module.COMMANDS
        return next(command for command in commands if command.name == cmd_name)
