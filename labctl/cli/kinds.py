"""The verb that tells what kinds there are to make a lab of."""

from __future__ import annotations

from typing import Any

import click

from labctl.cli.out import say
from labctl.cli.words import json_option, print_json, print_table
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
        _explain(registry.forwarder(kind), as_json)
        return
    entries = registry.entries()
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


def _facts(kind: Kind) -> dict[str, Any]:
    return {
        "name": kind.name,
        "what": kind.what,
        "summary": kind.summary,
        "effect": kind.effect.value,
    }


def _explain(kind: Kind, as_json: bool) -> None:
    if as_json:
        print_json(_facts(kind) | {"explanation": kind.explanation})
        return
    say(
        f"{kind.name} ({kind.what}): {kind.summary}; effect on unfinished checksums: "
        f"{kind.effect.value}"
    )
    if kind.explanation:
        say("")
        say(kind.explanation.rstrip())


COMMANDS = (kinds,)
