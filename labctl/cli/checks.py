"""Verbs that start nothing: validate, schema, doctor."""

from __future__ import annotations

import dataclasses
import sys

import click

from labctl import topology
from labctl.cli.options import json_option, print_error, print_json, print_table
from labctl.errors import ExitCode, UsageError
from labctl.lab import image_check
from labctl.topology import load_cache


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@json_option
def validate(files: tuple[str, ...], as_json: bool) -> None:
    """Check topology FILEs. Every problem is told with its line and column.

    Images are checked too: that there are such, with drivers for the NICs and memory enough.
    """
    found = []
    code = ExitCode.OK
    for file in files:
        try:
            path = topology.find(file)
            model = load_cache.load(path)
            image_check.check(model, path)
        except UsageError as wrong:
            code = ExitCode.USAGE
            if not as_json:
                print_error(wrong)
            found += [{"file": file, "valid": False, **one} for one in _problems(wrong)]
            continue
        found.append({"file": file, "valid": True, "digest": model.digest()})
        if not as_json:
            counts = f"networks: {len(model.networks)}, nodes: {len(model.nodes)}"
            counts += f", routers: {len(model.routers)}"
            click.echo(f"{file}: valid ({counts})")
    if as_json:
        print_json(found)
    sys.exit(code)


def _problems(wrong: UsageError) -> list[dict[str, object]]:
    """Return what is wrong as plain data, each with its place where it has one (0: it has none)."""
    if not isinstance(wrong, topology.TopologyError):
        nowhere = {"line": 0, "column": 0, "where": ""}
        return [{"problem": str(wrong), **nowhere, "message": wrong.message, "hint": wrong.hint}]
    return [{"problem": str(one), **dataclasses.asdict(one)} for one in wrong.problems]


@click.command()
@click.argument("what", type=click.Choice(["topology", "matrix", "trace"]), default="topology")
def schema(what: str) -> None:
    """Print the JSON Schema of topology files, for editors.

    `labctl schema matrix` prints that of matrix files, `labctl schema trace` that of what `labctl
    trace --json-lines` prints.
    """
    if what == "matrix":
        from labctl.matrix import file  # here: as below

        print_json(file.json_schema())
        return
    if what == "trace":
        from labctl.tracing import schema as lines  # here: editors ask for the other one

        print_json(lines.json_schema())
        return
    print_json(topology.json_schema())


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check all labctl needs of this host. Says how to fix what is wrong."""
    from labctl.lab import doctor as prerequisites  # here: `validate` does without

    findings = prerequisites.examine()
    if as_json:
        print_json([finding.to_json() for finding in findings])
    else:
        rows = [[one.verdict, one.name, one.observed, one.remedy] for one in findings]
        print_table(["", "what", "found", "how to fix it"], rows)
    sys.exit(ExitCode.ERROR if any(one.verdict == "fail" for one in findings) else ExitCode.OK)


COMMANDS = (validate, schema, doctor)
