"""The verb `completion`: what lets a shell complete labctl's words.

click does the work; bash has a script of labctl's own, because bash breaks words at colons, which
the names of hops have.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import ClassVar, NoReturn

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    split_arg_string,
)

PROGRAM = "labctl"
VARIABLE = "_LABCTL_COMPLETE"

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' line
    local -x _LABCTL_LINE=${COMP_LINE:0:COMP_POINT} _LABCTL_WORD=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=()
    for line in $(%(complete_var)s=bash_complete "$1" 2>/dev/null </dev/null); do
        case $line in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            part,*) compopt -o nospace; COMPREPLY+=("${line#part,}") ;;
            plain,*) COMPREPLY+=("${line#plain,}") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """Completion for bash 4.4 and later."""

    source_template: ClassVar[str] = _BASH

    def source(self) -> str:
        """Return the script; unlike click's it is made without asking for bash's version."""
        return ShellComplete.source(self)

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor's, and that one as far as it goes."""
        line = os.environ.get("_LABCTL_LINE", "")
        words = split_arg_string(line)
        begun = words.pop() if words and line[-1:] not in (" ", "\t", "") else ""
        self._typed = begun
        return words[1:], begun

    def format_completion(self, item: CompletionItem) -> str:
        """Return what bash is to put in place of its own word, which may begin at a colon."""
        own = os.environ.get("_LABCTL_WORD", "")
        if own in (":", "=", "@"):  # the character that breaks words, where bash stands behind it
            own = ""
        known = self._typed if self._typed.endswith(own) else ""
        text = item.value[len(known) - len(own) :] if known and known != own else item.value
        kind = "part" if item.type == "plain" and item.value[-1:] in ("/", ":") else item.type
        return f"{kind},{text}"


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": ZshComplete, "fish": FishComplete}


def complete(command: click.Command) -> NoReturn:
    """Answer a shell that asks what a word may become, and exit; what goes wrong is no answer."""
    unwanted = () if os.environ.get("LABCTL_DEBUG") else (Exception,)
    with contextlib.suppress(*unwanted):  # an error has no place at a prompt
        shell = os.environ[VARIABLE].removesuffix("_complete")
        click.echo(SHELLS[shell](command, {}, PROGRAM, VARIABLE).complete())
    sys.exit(0)


def source(shell: str) -> str:
    """Return the script that lets a shell complete labctl's words."""
    from labctl.cli.main import cli  # here: it has this verb

    return SHELLS[shell](cli, {}, PROGRAM, VARIABLE).source()


@click.command("completion")
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    For bash, in ~/.bashrc: source <(labctl completion bash). For zsh, in ~/.zshrc below compinit:
    source <(labctl completion zsh). For fish: labctl completion fish >
    ~/.config/fish/completions/labctl.fish. A Debian package of labctl brings all three along.
    """
    click.echo(source(shell), nl=False)


COMMANDS = (completion,)
