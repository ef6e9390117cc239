"""The verb `graph`: a topology, or a running lab, as a drawing."""

from __future__ import annotations

from pathlib import Path

import click

from labctl import topology
from labctl.cli.options import lab_option, print_json, writable
from labctl.cli.report import write_whole
from labctl.errors import UsageError
from labctl.lab import state, status
from labctl.report import graph as graphs
from labctl.report import graph_svg

_FORMATS = {
    "text": graphs.text,
    "mermaid": graphs.mermaid,
    "dot": graphs.dot,
    "svg": graph_svg.draw,
}
_ENDINGS = {".svg": "svg", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid", ".txt": "text",
            ".json": "json"}  # fmt: skip


@click.command("graph")
@lab_option
@click.option(
    "--format", "-f", "form", type=click.Choice([*_FORMATS, "json"]),
    help="How it is told. [default: by the suffix of the output's file, else text]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="Write it there."
)
@click.argument("file", required=False, metavar="[FILE]")
@click.pass_context
def graph(
    context: click.Context,
    lab: str | None,
    form: str | None,
    as_json: bool,
    output: Path | None,
    file: str | None,
) -> None:
    """Draw a topology FILE, or a running lab.

    That is nodes, routers and networks, with kinds and addresses. FILE is found as `labctl up`
    finds it; without one it is the lab of --lab, or the only one that is up, and then each node's
    and router's state is told too.
    """
    from click.core import ParameterSource

    named = context.get_parameter_source("lab") is ParameterSource.COMMANDLINE
    if file and named:
        raise UsageError("a file and --lab contradict each other", "give one of the two")
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} contradict each other", "give one of them")
    form = "json" if as_json else form
    if output and form is None and output.suffix and output.suffix not in _ENDINGS:
        raise UsageError(
            f"no drawing is written as {output.suffix}",
            f"end the file's name in one of {', '.join(_ENDINGS)}, or say --format",
        )
    form = form or (output and _ENDINGS.get(output.suffix)) or "text"
    writable(output)
    if file:
        found = graphs.of(topology.load(topology.find(file)))
    else:
        folder = state.find(lab)
        parts = status.describe(folder).get("parts", [])
        known = state.load(folder).topology
        found = graphs.of(known, {part["name"]: part["state"] for part in parts if part["state"]})
    if output:
        import json

        told = json.dumps(found.to_json(), indent=2) + "\n" if form == "json" else ""
        write_whole(output, told or _FORMATS[form](found))
        click.echo(str(output))
    elif form == "json":
        print_json(found.to_json())
    else:
        click.echo(_FORMATS[form](found), nl=False)


COMMANDS = (graph,)
