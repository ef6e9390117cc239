from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from labctl import cli
from labctl.cli.main import cli as command_line
from labctl.cli.verbs import VERBS

HEAVY = {"pydantic", "yaml", "rich", "pyroute2", "libvirt", "cryptography", "debian", "libarchive"}


def offered() -> dict[str, str]:
    found = {}
    for file in Path(cli.__path__[0]).glob("*.py"):
        for command in getattr(import_module(f"labctl.cli.{file.stem}"), "COMMANDS", ()):
            found[command.name] = file.stem
    return found


def test_every_verb_is_known_by_its_name() -> None:
    assert offered() == {name: module for name, (module, _) in VERBS.items()}


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help(verb: str) -> None:
    command = command_line.get_command(click.Context(command_line), verb)
    assert command is not None
    assert command.get_short_help_str(limit=1000) == VERBS[verb][1]


def imported(words: str, *, whole: bool = False) -> set[str]:
    """Import what a command line needs, in a process of its own; return the packages it has.

    `whole` names are those of modules too.
    """
    name = "name" if whole else "name.partition('.')[0]"
    code = f"import sys; {words}; print(*{{{name} for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_list_of_verbs_starts_without_any_of_them() -> None:
    listing = "from labctl.cli.main import cli; cli.main(['--help'], standalone_mode=False)"
    found = imported(listing, whole=True)
    assert not found & HEAVY
    assert not found & {f"labctl.cli.{module}" for module, _ in VERBS.values()}


def test_verbs_on_a_running_lab_start_without_what_brings_one_up() -> None:
    assert not imported("import labctl.cli.main, labctl.cli.labs") & HEAVY


def test_a_process_inside_a_lab_starts_without_what_reads_topologies() -> None:
    needed = "import labctl.sandbox.agent, labctl.guests.driver, labctl.network.links"
    assert not imported(needed) & HEAVY
