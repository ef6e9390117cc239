"""The verb that tells what kinds there are to make a lab of."""

from __future__ import annotations

from typing import Any

import click

from labctl.cli.options import json_option, print_json, print_table
from labctl.cli.out import say
from labctl.errors import UsageError, nearest, shown
from labctl.kinds import registry
from labctl.kinds.base import Kind


@click.command("kinds")
@click.argument("kind", required=False, metavar="[KIND]")
@json_option
def kinds(kind: str | None, as_json: bool) -> None:
    """List the kinds a lab can be made of, or explain KIND.

    The effect is what becomes of a checksum that is still to be finished. Kinds of other packages
    are listed too, those that cannot be used with the reason.
    """
    if kind is not None:
        explain(kind, as_json)
        return
    entries = list(registry.known())
    if as_json:
        print_json(
            [
                {"name": one.name, "package": one.distribution, "problem": one.problem}
                | (_facts(one.kind) if one.kind else {})
                for one in entries
            ]
        )
        return
    rows = [
        [one.name, one.kind.what, one.kind.summary, one.kind.effect.value]
        if one.kind
        else [one.name, "", f"cannot be used: {one.problem}", ""]
        for one in entries
    ]
    print_table(["kind", "what it is", "summary", "effect"], rows)


def is_known(name: str) -> bool:
    """Tell whether a kind of this name is declared, of whatever sort."""
    return any(entry.name == name for entry in registry.known())


def _named(name: str) -> list[Kind]:
    """Return the kinds of a name: a link may be called as a forwarder is.

    Raises `UsageError` where there is none, or one that cannot be used.
    """
    found = [entry for entry in registry.known() if entry.name == name]
    if not found:
        names = [entry.name for entry in registry.known()]
        raise UsageError(f"there is no kind {shown(name)}", nearest(name, names))
    for entry in found:
        if entry.problem:
            raise UsageError(entry.problem, "repair or remove what declares it")
    return [entry.kind for entry in found if entry.kind]


def _options(kind: Kind) -> dict[str, Any]:
    """Return the schema of a kind's options, by their names."""
    from labctl.topology import options  # pydantic takes its time, and the table needs none

    return dict(options.schema(kind).get("properties", {}))


def _facts(kind: Kind) -> dict[str, Any]:
    return {
        "name": kind.name,
        "what": kind.what,
        "summary": kind.summary,
        "effect": kind.effect.value,
        "options": _options(kind),
    }


def explain(name: str, as_json: bool) -> None:
    """Print what a kind is and does; raises `UsageError` where there is none of the name."""
    named = _named(name)
    if as_json:
        told = [_facts(kind) | {"explanation": kind.explanation} for kind in named]
        print_json(told[0] if len(told) == 1 else told)
        return
    for kind in named:
        say(
            f"{kind.name} ({kind.what}): {kind.summary}; effect on unfinished checksums: "
            f"{kind.effect.value}"
        )
        for name, facts in _options(kind).items():
            default = f", {facts['default']} by default" if "default" in facts else ""
            values = " or ".join(map(str, facts.get("enum", [facts.get("type", "a value")])))
            said = f": {facts['description']}" if facts.get("description") else ""
            say(f"  option {name} ({values}{default}){said}")
        if kind.explanation:
            say("")
            say(kind.explanation.rstrip())


COMMANDS = (kinds,)
