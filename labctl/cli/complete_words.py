"""Commands as completion needs them, without the import of what runs them.

To import a verb takes up to a second, and a shell asks with each press of Tab. So what completion
asks of a command (its options, what its words are) is noted once as plain data, in the cache under
the code it comes from, and click completes for a stand-in that is made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from labctl.cli import complete_values
from labctl.sandbox import user_cache

KIND = "completion"

OPTIONS: Mapping[str, str] = {
    "--lab": "labs",
    "--kernel": "kernels",
    "--topology": "topologies",
    "--path": "endpoints",
    "--observer": "observers",
    "--only": "nothing",
    "--publish": "nothing",
}
"""What an option takes, by its name, where its type does not tell."""
ARGUMENTS: Mapping[str, str] = {
    "capture": "hops",
    "catalogue run": "rows",
    "cp": "copied",
    "diagnose": "endpoints",
    "down": "labs",
    "exec": "first_node",
    "experiment": "experiments",
    "explain": "explained",
    "graph": "topologies",
    "image build": "images",
    "image lock": "images",
    "image pull": "topologies",
    "image rm": "images",
    "kinds": "kinds",
    "link": "interfaces",
    "publish": "nodes",
    "report": "runs",
    "results diff": "runs",
    "results export": "runs",
    "results show": "runs",
    "trace": "endpoints",
    "up": "topologies",
    "validate": "topologies",
}
"""What the words of a verb are: a function of `complete_values`."""
METAVARS: Mapping[str, str] = {"NODE": "nodes", "NODE...": "nodes", "SRC": "nodes", "DST": "nodes"}
"""The same by how help calls them, for verbs that are not above."""


@dataclass(frozen=True)
class Word:
    """An option or an argument."""

    names: tuple[str, ...]
    """Of an option, such as `--lab` and `-l`; none for an argument."""
    flag: bool
    nargs: int
    multiple: bool
    values: str
    """What it takes: `file`, `dir`, or the name of a function of `complete_values`."""
    choices: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Words:
    """A command."""

    words: tuple[Word, ...]
    interspersed: bool
    """Whether options may follow arguments."""
    below: dict[str, Words]
    """Of a group, its commands."""
    summary: str


def of(command: click.Command, called: str) -> Words:
    """Note of a command what completion asks; `called` are the words that call it."""
    below = command.commands if isinstance(command, click.Group) else {}
    return Words(
        words=tuple(_word(one, called) for one in command.params),
        interspersed=bool(command.context_settings.get("allow_interspersed_args", True)),
        below={name: of(one, f"{called} {name}") for name, one in below.items()},
        summary=command.get_short_help_str(60),
    )


def _word(parameter: click.Parameter, called: str) -> Word:
    is_option = isinstance(parameter, click.Option)
    kind = parameter.type
    return Word(
        names=tuple(parameter.opts) if is_option else (),
        flag=is_option and bool(getattr(parameter, "is_flag", False)),
        nargs=parameter.nargs,
        multiple=parameter.multiple,
        values=_values(parameter, called),
        choices=tuple(map(str, kind.choices)) if isinstance(kind, click.Choice) else (),
        help=str(getattr(parameter, "help", None) or ""),
    )


def _values(parameter: click.Parameter, called: str) -> str:
    """Return what a parameter takes; for a number or a text of one's own that is nothing."""
    if isinstance(parameter, click.Option):
        known = [OPTIONS[name] for name in parameter.opts if name in OPTIONS]
        if known:
            return known[0]
        if "--results" in parameter.opts:
            return "dir"
    if isinstance(parameter.type, click.Path):
        by_verb = ARGUMENTS.get(called, "") if isinstance(parameter, click.Argument) else ""
        return by_verb if by_verb == "topologies" else "file"
    if isinstance(parameter, click.Argument):
        return ARGUMENTS.get(called) or METAVARS.get(
            parameter.metavar or (parameter.name or "").upper(), "nothing"
        )
    return "nothing"


def stand_in(verb: str, load: Callable[[], click.Command]) -> click.Command:
    """Return what completes as a verb does; `load` imports that, where nothing is noted of it."""
    key = user_cache.key(Path(__file__).parent, [verb])
    known: Words | None = user_cache.load(KIND, key, Words)
    if known is None:
        known = of(load(), verb)
        user_cache.keep(KIND, key, known, Words)
    return _command(verb, known)


def _command(name: str, known: Words) -> click.Command:
    parameters = [_parameter(one, at) for at, one in enumerate(known.words)]
    settings = {
        "allow_interspersed_args": known.interspersed,
        "ignore_unknown_options": not known.interspersed,
        "help_option_names": ["-h", "--help"],
    }
    if not known.below:
        return click.Command(
            name, params=parameters, context_settings=settings, short_help=known.summary
        )
    below = {word: _command(word, one) for word, one in known.below.items()}
    return click.Group(
        name, commands=below, params=parameters, context_settings=settings,
        short_help=known.summary,
    )  # fmt: skip


def _parameter(known: Word, number: int) -> click.Parameter:
    kind: click.Choice[str] | click.Path | None = None
    if known.choices:
        kind = click.Choice(known.choices)
    elif known.values in ("file", "dir"):
        kind = click.Path(file_okay=known.values == "file")
    complete = None if kind else _completer(known.values)
    if not known.names:
        return click.Argument(
            [f"word{number}"], nargs=known.nargs, required=False, type=kind,
            shell_complete=complete,
        )  # fmt: skip
    name = "lab" if "--lab" in known.names else f"word{number}"
    if known.flag:
        return click.Option([*known.names, name], is_flag=True, help=known.help)
    return click.Option(
        [*known.names, name], nargs=known.nargs, multiple=known.multiple, type=kind,
        help=known.help, shell_complete=complete,
    )  # fmt: skip


def _completer(
    values: str,
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    def complete(
        context: click.Context, parameter: click.Parameter, begun: str
    ) -> list[CompletionItem]:
        name, lab = values, context.params.get("lab") or ""
        if values == "first_node":  # what follows it is a command's
            name = "nothing" if context.params.get(parameter.name or "") else "nodes"
        find: complete_values.Values = getattr(complete_values, name)
        return list(find(lab, begun))

    return complete
