"""Which verbs there are, what for, and in which module; each is imported only when it is wanted."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import click

from labctl.errors import UsageError, nearest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

VERBS = {
    "capture": ("capture", "Show what passes at HOPs of a running lab, as it comes."),
    "catalogue": ("catalogue", "Show which paths keep, lose or complete checksums."),
    "completion": ("completion", "Print the completion script for SHELL."),
    "console": ("labs", "Talk to NODE's console; leave with Ctrl-]."),
    "cp": ("cp", "Copy a file or a folder into a guest, or out of one."),
    "diagnose": ("diagnose", "Say what is wrong from SRC to DST, why, and how to fix it."),
    "doctor": ("checks", "Check all labctl needs of this host."),
    "down": ("labs", "Take LAB down, whatever state it is in."),
    "events": ("events", "Print what is there, then what changes: a JSON object a line."),
    "exec": ("exec", "Run COMMAND in NODE word by word, without a shell."),
    "experiment": ("experiments", "Run experiments by NAME or from a Python FILE of yours."),
    "experiments": ("experiments", "List the experiments that can be run by name, one line each."),
    "explain": ("explain", "Explain EXPERIMENT: the mechanism hop by hop, the evidence."),
    "graph": ("graph", "Draw a topology FILE, or a running lab."),
    "image": ("image", "Build, pull, list, remove and lock the images of guests."),
    "inspect": ("inspect", "Judge every checksum of a pcap or pcapng FILE."),
    "inventory": ("access", "Print an inventory for Ansible, as JSON."),
    "kinds": ("kinds", "List the kinds a lab can be made of, or explain KIND."),
    "link": ("link", "Take links down and up, or impair them."),
    "logs": ("labs", "Print what NODE's console has said."),
    "matrix": ("matrix", "Run experiments under all combinations of conditions."),
    "matrix-worker": ("matrix", "Run cells of matrices that another machine sends."),
    "publish": ("publish", "Let a port of this host lead into a guest."),
    "report": ("report", "Make one HTML page of RUN, or of a running lab."),
    "restart": ("power", "Stop NODEs and start them."),
    "restore": ("saves", "Bring up the lab that was saved under NAME, as it was."),
    "results": ("results", "List the recorded runs; show one, compare two, pass one on."),
    "save": ("saves", "Save a running lab under NAME; it goes on afterwards."),
    "saves": ("saves", "List the saved labs, or remove one."),
    "schema": ("checks", "Print the JSON Schema of topology files, for editors."),
    "ssh": ("labs", "Open a shell in NODE, or run COMMAND there."),
    "ssh-config": ("access", "Print an ssh_config(5) for the lab's guests."),
    "ssh-proxy": ("access", "Connect to NODE's SSH server, for ssh(1) to call."),
    "start": ("power", "Start NODEs that were stopped, or have ended."),
    "status": ("labs", "Show every lab with its nodes, routers and networks."),
    "stop": ("power", "Stop NODEs of a running lab."),
    "trace": ("trace", "Follow packets from node SRC to node DST and back."),
    "up": ("up", "Bring the topology FILE up: all of it, or nothing stays."),
    "validate": ("checks", "Check topology FILEs."),
    "version": ("version", "Print the version of labctl, and what it found on this host."),
}
"""Every verb: the module of this room that has it in its `COMMANDS`, and what is said of it in the
list of all verbs, for which to import them took 0.3 s."""


def variable(words: str, option: str) -> str:
    """Return the environment variable of an option, such as `LABCTL_IMAGE_BUILD_FORCE`."""
    return f"LABCTL {words} {option.lstrip('-')}".replace("-", "_").replace(" ", "_").upper()


def name_variables(command: click.Command, words: str) -> None:
    """Give each option of a verb and of those below it its variable, behind none or before others.

    `words` call the verb. What serves several verbs, such as LABCTL_LAB, counts where the verb's
    own variable is not set. click's `auto_envvar_prefix` would go by the names of our functions'
    parameters.
    """
    for option in command.params:
        if isinstance(option, click.Option):
            own = variable(words, max(option.opts, key=len))
            shared = [option.envvar] if isinstance(option.envvar, str) else option.envvar or ()
            option.envvar = [own, *(one for one in shared if one != own)]
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            name_variables(below, f"{words} {name}")


class Verbs(click.Group):
    """Imports a verb's module only when it is wanted: `ssh` must not wait for experiments."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of all verbs."""
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb by its name; for completion what stands in for it."""
        if cmd_name not in VERBS:
            return None
        if ctx.resilient_parsing:
            from labctl.cli import complete_words

            return complete_words.stand_in(cmd_name, lambda: self._load(cmd_name))
        return self._load(cmd_name)

    def _load(self, cmd_name: str) -> click.Command:
        module = import_module(f"labctl.cli.{VERBS[cmd_name][0]}")
        commands: tuple[click.Command, ...] = module.COMMANDS
        command = next(command for command in commands if command.name == cmd_name)
        name_variables(command, cmd_name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the verbs that a word may become, and what each is for; nothing is imported."""
        from click.shell_completion import CompletionItem  # here: only completion needs it

        names = (name for name in sorted(VERBS) if name.startswith(incomplete))
        verbs = [CompletionItem(name, help=VERBS[name][1]) for name in names]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb that the first word names; raises `UsageError` for one there is not."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            hint = nearest(args[0], VERBS)
            known = hint.startswith("known")
            raise UsageError(
                f"there is no verb {args[0]}", "all of them: labctl --help" if known else hint
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write what each verb is for; nothing of them is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, VERBS[name][1]) for name in sorted(VERBS)])
