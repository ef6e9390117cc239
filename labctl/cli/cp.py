"""The verb `cp`: files into a guest, and back."""

from __future__ import annotations

import re
from pathlib import Path

import click

from labctl.cli.options import json_option, lab_option, print_json
from labctl.errors import UsageError
from labctl.lab import copy_files
from labctl.lab.lab import Lab
from labctl.sandbox.deadline import Deadline

_REMOTE = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*):(.*)", re.DOTALL)


@click.command("cp")
@lab_option
@click.option(
    "--timeout", type=click.FloatRange(1, 86400), default=600.0, show_default=True,
    metavar="SECONDS", help="When all of it is to be over.",
)  # fmt: skip
@json_option
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
def copy(lab: str | None, timeout: float, as_json: bool, source: str, target: str) -> None:
    """Copy a file or a folder into a guest, or out of one.

    One of SRC and DST is NODE:PATH. A path of a guest's that is not absolute begins in the home of
    root. Where DST is a folder it is put into it. From a guest only files and folders are taken,
    with no more rights than 777; links, devices and sockets are left out, and counted.
    """
    ends = [_REMOTE.fullmatch(word) for word in (source, target)]
    if all(ends) or not any(ends):
        raise UsageError(
            f"{'both' if all(ends) else 'neither'} of {source} and {target} "
            f"{'are' if all(ends) else 'is'} in a guest",
            "write one as NODE:PATH (a file of this machine with a colon in its name as ./NAME)",
        )
    running = Lab.attach(lab)
    within = Deadline(timeout, "copying")
    if found := ends[0]:
        copied = copy_files.from_guest(running, found[1], found[2], Path(target), within)
    else:
        there = ends[1]
        assert there
        copied = copy_files.to_guest(running, Path(source), there[1], there[2], within)
    running.close()
    if as_json:
        print_json(copied.to_json())
        return
    many = f"{copied.files} file{'s'[: copied.files != 1]}, {copied.bytes:,} bytes"
    left = f"; {copied.skipped} left out (links, devices, sockets)" if copied.skipped else ""
    click.echo(f"{copied.source} -> {copied.target}: {many}{left}")


COMMANDS = (copy,)
