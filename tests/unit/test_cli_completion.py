"""Completion: what a shell is offered, and a real bash that asks for it."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from cli_words import Labctl

from labctl import topology
from labctl.cli import complete_values, complete_words, completion
from labctl.cli.main import cli
from labctl.cli.verbs import VERBS, variable
from labctl.errors import ExitCode
from labctl.sandbox import user_cache
from labctl.sandbox.deadline import Deadline

pytest_plugins = ["cli_words"]
pytestmark = pytest.mark.usefixtures("runtime")
BIN = Path(sys.executable).parent
Offered = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: to note what verbs take is what takes long."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> Offered:
    """Return what is offered for a line that ends at the cursor, as bash is told it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("LABCTL_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)

    def ask(line: str) -> list[str]:
        monkeypatch.setenv("_LABCTL_LINE", line)
        # As bash has it: what is typed of the word behind its last colon, or the colon itself.
        word = line.rpartition(" ")[2]
        own = re.split("([:=@])", word)
        monkeypatch.setenv("_LABCTL_WORD", own[-1] or (own[-2] if len(own) > 1 else ""))
        told = completion.Bash(cli, {}, completion.PROGRAM, completion.VARIABLE).complete()
        return [one.partition(",")[2] for one in told.splitlines()]

    return ask


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the lab of router-hop.yaml be up."""
    model = topology.load(topology.find_shipped("router-hop.yaml"))
    monkeypatch.setattr(complete_values, "_topology", lambda _name: model)


def test_verbs_are_offered(offered: Offered) -> None:
    assert offered("labctl val") == ["validate"]
    assert set(offered("labctl ")) == set(VERBS)
    assert offered("labctl image bu") == ["build"]


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    ("line", "among"),
    [
        ("labctl ssh v", "vm1"),
        ("labctl exec ", "r1"),
        ("labctl trace vm1 ", "vm2"),
        ("labctl capture vm1", "vm1:eth0"),
        ("labctl capture --path vm1 v", "vm2"),
        ("labctl link r1", "r1:eth0"),
        ("labctl cp vm", "vm1:"),
        ("labctl experiment router", "router-hop"),
        ("labctl experiment router-hop --topology bri", "bridged.yaml"),
        ("labctl up router", "router-hop.yaml"),
        ("labctl explain ra", "raw"),
        ("labctl kinds e1000", "e1000e"),
        ("labctl catalogue run name", "namespace"),
        ("labctl image build micro-", "micro-generic"),
        ("labctl up bridged --kernel debian-1", "debian-13"),
        ("labctl up bridged --accel r", "require"),
        ("labctl results show ", "last"),
        ("labctl completion z", "zsh"),
        ("labctl capture --observer ", "drops"),
    ],
)
def test_what_may_stand_there_is_offered(offered: Offered, line: str, among: str) -> None:
    assert among in offered(line)


@pytest.mark.usefixtures("lab")
def test_behind_a_colon_bash_is_told_what_follows_it(offered: Offered) -> None:
    assert offered("labctl capture vm1:") == ["eth0"]
    assert offered("labctl capture vm1:e") == ["eth0"]


@pytest.mark.usefixtures("lab")
def test_words_of_a_command_in_a_node_are_not_offered(offered: Offered) -> None:
    assert offered("labctl exec vm1 ") == []


def test_runs_are_offered_the_latest_first(offered: Offered, tmp_path: Path) -> None:
    names = [f"2026010{day}T000000.000Z-bridged-000{day}" for day in range(1, 4)]
    for name in names:
        (tmp_path / "results" / name).mkdir(parents=True)
    assert offered("labctl report 2026") == names[::-1]


def test_files_are_offered_by_what_they_are(offered: Offered, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "mine.py").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner.yaml").touch()
    assert offered("labctl up mi") == ["mine.yaml"]
    assert offered("labctl up ./fo") == ["./folder/"]
    assert offered("labctl validate folder/") == ["folder/inner.yaml"]
    assert "mine.py" in offered("labctl experiment mi")


@pytest.mark.parametrize("line", ["labctl nonsense ", "labctl ssh ", "labctl up --nonsense x "])
def test_what_cannot_be_known_is_no_error_at_a_prompt(line: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "labctl"], capture_output=True, text=True, timeout=60, check=True,
        env={
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "_LABCTL_LINE": line,
            "_LABCTL_WORD": "", completion.VARIABLE: "bash_complete",
            "LABCTL_RUNTIME_DIR": str(tmp_path),
        },
    )  # fmt: skip
    assert done.stderr == ""


def test_what_stands_in_for_a_verb_is_noted_once(offered: Offered) -> None:
    first = offered("labctl trace --")
    assert "--where" in first
    key = user_cache.key(Path(complete_words.__file__).parent, ["trace"])
    assert user_cache.load(complete_words.KIND, key, complete_words.Words)

    def load() -> click.Command:
        raise AssertionError("it is noted")

    assert complete_words.stand_in("trace", load).params
    assert offered("labctl trace --") == first


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_shells_script_is_printed(labctl: Labctl, shell: str) -> None:
    told = labctl("completion", shell)
    assert told.code == ExitCode.OK
    assert completion.VARIABLE in told.out
    program = shutil.which(shell)
    if program:
        subprocess.run([program, "-n"], input=told.out, text=True, check=True, timeout=60)


def test_bash_completes_at_the_press_of_tab(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash
    child, terminal = pty.fork()
    if not child:
        os.environ |= {"HOME": str(tmp_path), "PS1": "> ", "TERM": "dumb", "INPUTRC": os.devnull}
        os.environ["PATH"] = f"{BIN}:{os.environ['PATH']}"
        os.execv(bash, ["bash", "--norc", "--noprofile", "-i"])
    deadline = Deadline(60, "completion in bash")
    seen = ""

    def wait(text: str) -> None:
        nonlocal seen
        while text not in seen:
            assert select.select([terminal], [], [], deadline.left)[0], seen
            seen += os.read(terminal, 4096).decode(errors="replace")

    try:
        os.write(terminal, b"source <(labctl completion bash); echo rea''dy\n")
        wait("ready\r\n")
        seen = ""
        os.write(terminal, b"labctl valid\tbrid\t")
        wait("labctl validate bridged.yaml")
    finally:
        os.close(terminal)
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_every_option_has_its_variable_by_one_rule(
    labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert variable("image build", "--force") == "LABCTL_IMAGE_BUILD_FORCE"
    assert variable("up", "--dry-run") == "LABCTL_UP_DRY_RUN"
    monkeypatch.setenv("LABCTL_STATUS_JSON", "1")
    assert labctl("status").out == "[]\n"
    for name in ("LABCTL_LAB", "LABCTL_EXPERIMENT_ACCEL", "LABCTL_ACCEL"):
        monkeypatch.setenv(name, "nonsense")
    assert "'nonsense'" in labctl("up", "bridged.yaml").err
    monkeypatch.setenv("LABCTL_UP_ACCEL", "own")
    assert "'own'" in labctl("up", "bridged.yaml").err


def test_no_variable_means_two_options() -> None:
    seen: dict[str, str] = {
        "LABCTL_RUNTIME_DIR": "",
        "LABCTL_DEBIAN_MIRROR": "",
        "LABCTL_DEBUG": "",
    }
    context = click.Context(cli)

    def look(command: click.Command, words: str) -> None:
        for one in command.params:
            if isinstance(one, click.Option):
                own = one.envvar[0] if isinstance(one.envvar, list) else ""
                assert own == variable(words, max(one.opts, key=len))
                assert own not in seen
                seen[own] = words
        if isinstance(command, click.Group):
            for name, below in command.commands.items():
                look(below, f"{words} {name}")

    for verb in VERBS:
        command = cli.get_command(context, verb)
        assert command
        look(command, verb)
