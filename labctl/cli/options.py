"""Options that several commands share, and printing tables and JSON."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from labctl.errors import UNSAFE, LabctlError, UsageError, clean
from labctl.topology import TopologyError

F = TypeVar("F", bound=Callable[..., Any])


json_asked = False
"""Whether `--json` was given to labctl itself: errors are JSON then too."""


def json_option(function: F) -> F:
    """Add `--json`."""
    return click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=_note_json,
        help="Print JSON for a script.",
    )(function)  # fmt: skip


def _note_json(_context: click.Context, _parameter: click.Parameter, given: bool) -> bool:
    global json_asked
    json_asked = json_asked or given
    return given


def lab_option(function: F) -> F:
    """Add `--lab NAME`."""
    return click.option(
        "--lab", "-l", metavar="NAME", envvar="LABCTL_LAB", show_envvar=True,
        help="Which lab; not needed while only one is up.",
    )(function)  # fmt: skip


def accel_option(function: F) -> F:
    """Add `--accel`."""
    return click.option(
        "--accel", type=click.Choice(["auto", "require", "off"]), default="auto",
        envvar="LABCTL_ACCEL", show_envvar=True, show_default=True,
        help="KVM when it really works, KVM or an error, or TCG.",
    )(function)  # fmt: skip


def cold_option(function: F) -> F:
    """Add `--cold`."""
    return click.option(
        "--cold", is_flag=True, envvar="LABCTL_COLD", show_envvar=True,
        help="Boot every guest, also those that could start from a saved state (docs/clones.md).",
    )(function)  # fmt: skip


def connect_option(function: F) -> F:
    """Add `--connect`."""
    return click.option(
        "--connect", "uri", metavar="URI", default="", envvar="LABCTL_CONNECT",
        show_envvar=True,
        help="Run the guests by this host's libvirtd (qemu:///system) in the host's own network, "
        "or on a real Xen host (xen+ssh://root@HOST/system).",
    )(function)  # fmt: skip


def writable(path: Path | None) -> None:
    """Refuse a file that cannot be written, before anything is started.

    What is written takes the place of what had its name: of a file, and of nothing else. A link
    such as /dev/stdout, or a device, would be gone.
    """
    if path is None:
        return
    try:
        kind = path.lstat().st_mode
    except OSError:
        kind = stat.S_IFREG
    if stat.S_ISDIR(kind) or path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"{path} cannot be written", "name a file in a folder that exists")
    if not stat.S_ISREG(kind):
        raise UsageError(f"{path} is there, and no file", "name a file, or a name that is free")


def print_error(error: LabctlError) -> None:
    """Print on standard error what is wrong, what to do, and the evidence if there is any."""
    # Problems of a file begin with their place, one a line, so that editors can jump there.
    prefix = "" if isinstance(error, TopologyError) else "labctl: "
    click.echo(f"{prefix}{error.message}", err=True)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)
    if error.detail:
        click.echo(error.detail, err=True)


def print_json(value: object) -> None:
    """Print one JSON document."""
    # Where the output is not UTF-8 nothing may be lost all the same.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    plain = encoding.lower() not in ("utf-8", "utf8")
    text = json.dumps(value, indent=2, ensure_ascii=plain, default=str)
    click.echo(printable_json(text))


def printable_json(text: str) -> str:
    """Return the same JSON without characters that act on a terminal, by JSON's own escapes."""
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table that fits the terminal; in a pipe nothing is cut."""
    from rich import box  # here: most verbs print none, and rich takes long to import
    from rich.table import Table
    from rich.text import Text

    from labctl.cli.console import Page

    console = Page(highlight=False)
    if not console.is_terminal:
        console.width = 240
    table = Table(
        box=box.SIMPLE_HEAD, title=Text(clean(title)) if title else None, title_justify="left",
        title_style="bold", pad_edge=False,
    )  # fmt: skip
    for at, name in enumerate(head):
        # What a row is called is copied into the next command: it is broken last of all.
        widest = max((len(clean(row[at])) for row in rows), default=0)
        keep = at == 0 and widest <= console.width // 2
        table.add_column(name, overflow="fold", no_wrap=keep)
    for row in rows:
        table.add_row(*(Text(clean(cell), style=STYLES.get(cell, "")) for cell in row))
    console.print(table)


STYLES = {"pass": "green", "fail": "red", "error": "red", "skip": "yellow", "running": "cyan"}
"""Colours of verdicts, by the word that fills a cell."""
