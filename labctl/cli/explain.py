"""The verb that explains a built-in experiment, or a kind."""

from __future__ import annotations

import click

from labctl.cli import kinds
from labctl.cli.options import json_option, print_json, print_table
from labctl.cli.out import Styled, say


@click.command("explain")
@click.argument("experiment", required=False, metavar="[EXPERIMENT|KIND]")
@json_option
def explain(experiment: str | None, as_json: bool) -> None:
    """Explain EXPERIMENT: the mechanism hop by hop, the evidence.

    Kernel functions are named, and Xen and virtio told side by side. Of a KIND that labs are made
    of: what it does, as `labctl kinds` tells it. Without either: which experiments there are.
    """
    from labctl.experiments.explained import NAMES, find
    from labctl.experiments.explained.page import lines
    from labctl.experiments.explained.resolve import resolve

    if experiment is None:
        found = [resolve(find(name)) for name in NAMES]
        if as_json:
            print_json([{"name": one.explanation.name, "title": one.title} for one in found])
        else:
            print_table(
                ["experiment", "what it is about"],
                [[one.explanation.name, one.title] for one in found],
            )
        return
    if experiment not in NAMES and kinds.is_known(experiment):
        kinds.explain(experiment, as_json)
        return
    told = resolve(find(experiment))
    if as_json:
        print_json(told.to_json())
        return
    for line in lines(told):
        say(Styled(line, bold=True) if line[:1].strip() else line)


COMMANDS = (explain,)
