"""Every wrong word for every verb: one line what is wrong, one line what to do, no traceback."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from cli_words import Labctl

from labctl.cli import main
from labctl.cli.verbs import VERBS
from labctl.errors import ExitCode

pytest_plugins = ["cli_words", "stand_in"]
pytestmark = pytest.mark.usefixtures("runtime", "any_process_is_an_init")

NO_LAB = [
    "capture vm1:eth0",
    "console vm1",
    "cp vm1:/etc/hosts .",
    "cp . vm1:/tmp",
    "diagnose vm1 vm2",
    "down",
    "exec vm1 -- true",
    "exec --all -- true",
    "graph",
    "inventory",
    "link",
    "link vm1:eth0 down",
    "logs vm1",
    "publish vm1:22",
    "report",
    "restart vm1",
    "save one",
    "ssh vm1",
    "ssh-config",
    "ssh-proxy vm1",
    "start vm1",
    "stop vm1",
    "trace vm1 vm2",
]
"""Each is right but for the lab that is not there."""
PROGRESS = re.compile(r" +[0-9]+\.[0-9] ")
OF_A_LAB = [words for words in NO_LAB if words not in ("report",)]
WRONG = [
    "capture",
    "capture vm1:eth0 --filter 'nonsense ('",
    "catalogue nonsense",
    "catalogue run no-such-row",
    "console",
    "cp",
    "cp a b",
    "cp vm1:a vm2:b",
    "diagnose vm1",
    "diagnose vm1 vm2 --tcp 22 --udp 5",
    "diagnose vm1 vm2 --tcp 99999999",
    "doctor nonsense",
    "down no-such-lab",
    "down a --lab b",
    "down a --all",
    "events --interval nonsense",
    "exec",
    "exec --all vm1 -- true",
    "experiment",
    "experiment no-such-experiment",
    "experiment no-such-file.py",
    "experiments nonsense",
    "explain no-such-experiment",
    "graph no-such-file",
    "graph bridged.yaml -f nonsense",
    "image nonsense",
    "image build no-such-image",
    "image rm",
    "image rm no-such-image --all",
    "image pull no-such-file.yaml",
    "image lock no-such-image",
    "inspect",
    "inspect no-such-file.pcap",
    "kinds no-such-kind",
    "link vm1:eth0 sideways",
    "link vm1:eth0 --delay nonsense",
    "publish nonsense",
    "publish vm1:99999999",
    "report no-such-run",
    "restore",
    "restore no-such-save",
    "restore 'no name'",
    "results nonsense",
    "results show no-such-run",
    "results diff",
    "results import no-such-file",
    "save",
    "save 'no name'",
    "save ../name",
    "saves rm",
    "saves rm no-such-save",
    "schema nonsense",
    "start",
    "stop vm1 --timeout nonsense",
    "status --lab no-such-lab",
    "status nonsense",
    "trace vm1",
    "trace vm1 vm2 --tcp nonsense",
    "trace vm1 vm2 --where 'nonsense =='",
    "trace vm1 vm2 -4 -6",
    "up",
    "up no-such-topology",
    "up bridged.yaml --name 'Not A Name'",
    "up bridged.yaml --accel nonsense",
    "validate",
    "validate no-such-file.yaml",
]


def words_of(line: str) -> list[str]:
    return shlex.split(line)


def assert_two_lines(labctl: Labctl, line: str) -> None:
    told = labctl(*words_of(line))
    assert told.code in (ExitCode.USAGE, ExitCode.ERROR), told
    assert "Traceback" not in told.err
    assert told.out == "", "what is wrong is no output"
    lines = [one for one in told.err.splitlines() if not PROGRESS.match(one)]
    assert len(lines) == 2, told.err
    assert lines[0].startswith("labctl: ")
    assert lines[1].startswith("  ")
    assert lines[1].strip()


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who has nothing yet."""
    monkeypatch.chdir(tmp_path)
    for name in ("STATE", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path))


@pytest.mark.parametrize("line", [one for one in WRONG if one])
def test_a_wrong_word_is_told_in_two_lines(labctl: Labctl, line: str) -> None:
    assert_two_lines(labctl, line)


@pytest.mark.parametrize("line", [one for one in NO_LAB if one != "down"])
def test_a_lab_that_is_not_there_is_told_in_two_lines(labctl: Labctl, line: str) -> None:
    assert_two_lines(labctl, line)


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_option_is_told_in_two_lines(labctl: Labctl, verb: str) -> None:
    assert_two_lines(labctl, f"{verb} --no-such-option")


def test_every_verb_that_works_on_a_lab_takes_its_name_alike() -> None:
    for line in OF_A_LAB:
        verb = main.cli.get_command(click.Context(main.cli), line.split()[0])
        assert verb is not None
        options = [one for one in verb.params if {"--lab", "-l"} <= set(one.opts)]
        assert options, line


@pytest.mark.parametrize("verb", ["image", "results", "saves", "catalogue"])
def test_a_group_without_a_verb_lists(labctl: Labctl, verb: str) -> None:
    assert labctl(verb).code == ExitCode.OK
