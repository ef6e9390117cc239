"""The command line: exit codes, one line of what is wrong, JSON for scripts."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from cli_words import Labctl, raising
from click.testing import CliRunner
from stand_in import ended, standing

from labctl import topology
from labctl.cli import experiments, labs, main
from labctl.cli import up as _up  # noqa: F401 - patched by its name, which is also a verb's
from labctl.cli.display import Lines
from labctl.cli.verbs import VERBS
from labctl.errors import ExitCode, GuestError, LabctlError
from labctl.experiments import runner
from labctl.lab import prestart, state, status, teardown
from labctl.lab.lab import Lab
from labctl.results.model import ArmResult, Check, Environment, Run, Verdict
from labctl.sandbox import owned
from labctl.sandbox.namespaces import IDENTITY

pytest_plugins = ["cli_words", "stand_in"]
pytestmark = pytest.mark.usefixtures("runtime", "any_process_is_an_init")


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["frobnicate"],
        ["up"],
        ["up", "a", "b"],
        ["up", "bridged.yaml", "--accel", "maybe"],
        ["up", "no-such-topology"],
        ["up", "bridged.yaml", "--name", "Not A Name"],
        ["ssh"],
        ["ssh", "vm1"],  # no lab is up
        ["experiment"],
        ["experiment", "no-such-experiment"],
        ["down", "no-such-lab"],
        ["down", "x", "--all"],
        ["status", "--nonsense"],
        ["validate"],
    ],
)
def test_wrong_words_exit_as_usage_with_a_line_that_says_so(
    labctl: Labctl, words: list[str]
) -> None:
    told = labctl(*words)
    assert told.code == ExitCode.USAGE
    assert told.err.strip()
    assert "Traceback" not in told.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_tells_what_it_is_for(verb: str) -> None:
    found = main.cli.get_command(click.Context(main.cli), verb)
    assert found is not None
    done = CliRunner().invoke(main.cli, [verb, "--help"])
    assert done.exit_code == 0
    told = found.get_short_help_str(200)
    assert told.endswith(".")
    assert found.get_short_help_str(61) == told, "the list of verbs has room for this much"


def commands(
    command: click.Command, *words: str
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every verb with the verbs below it, by the words that call it."""
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, *words, name)


@pytest.mark.parametrize(
    ("words", "command"), [pytest.param(*one, id=" ".join(one[0])) for one in commands(main.cli)]
)
def test_help_says_what_each_word_is_for_and_which_may_be_left_out(
    words: tuple[str, ...], command: click.Command
) -> None:
    told = CliRunner().invoke(main.cli, [*words, "--help"]).output
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            name = parameter.make_metavar(click.Context(command))
            assert name.startswith("[") != parameter.required, name
            assert name in told
        elif isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_help_lists_every_verb(labctl: Labctl) -> None:
    told = labctl("--help")
    assert told.code == 0
    assert {line.split()[0] for line in told.out.splitlines() if line[:2] == "  "} >= set(VERBS)


# --- topologies ---------------------------------------------------------------------------------

BROKEN = """\
networks: {lan: {}}
nodes:
  vm1: {interfaces: [{network: lam}], memroy: 3}
"""


def test_all_problems_of_a_topology_are_told_with_their_places(
    labctl: Labctl, tmp_path: Path
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(BROKEN)
    for verb in ("up", "validate"):
        told = labctl(verb, str(file))
        assert told.code == ExitCode.USAGE
        places = [line for line in told.err.splitlines() if line.startswith(f"{file}:3:")]
        assert len(places) == 2, told.err


def test_validate_judges_every_file(labctl: Labctl, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(BROKEN)
    told = labctl("validate", "--json", str(file), "bridged.yaml")
    assert told.code == ExitCode.USAGE
    assert [one["valid"] for one in json.loads(told.out)] == [False, False, True]
    told = labctl("validate", "bridged.yaml")
    assert (told.code, told.out) == (0, "bridged.yaml: valid (networks: 1, nodes: 2, routers: 0)\n")


def test_validate_goes_on_after_what_is_no_topology_at_all(
    labctl: Labctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adir").mkdir()
    told = labctl("validate", "no-such", "adir", "bridged.yaml")
    assert told.code == ExitCode.USAGE
    assert told.out.startswith("bridged.yaml: valid")
    assert "labctl: there is no topology 'no-such'\n  shipped: " in told.err
    assert "labctl: adir is not a file\n  name a topology file\n" in told.err
    told = labctl("validate", "--json", "no-such", "bridged.yaml", "adir")
    assert told.code == ExitCode.USAGE
    found = json.loads(told.out)
    assert [(one["file"], one["valid"]) for one in found] == [
        ("no-such", False), ("bridged.yaml", True), ("adir", False),
    ]  # fmt: skip
    assert found[2]["problem"] == "adir is not a file"


def test_the_schema_is_json(labctl: Labctl) -> None:
    assert "$schema" in json.loads(labctl("schema").out)


# --- labs ---------------------------------------------------------------------------------------


def make(runtime: Path, name: str, *, alive: bool = False) -> Path:
    folder = runtime / name
    owned.make(folder)
    identity = standing(os.getpid()) if alive else ended(os.getpid())
    (folder / IDENTITY).write_text(json.dumps(asdict(identity)))
    return folder


def test_without_labs_nothing_is_wrong(labctl: Labctl) -> None:
    assert "no lab is up" in labctl("status").out
    assert json.loads(labctl("status", "--json").out) == []
    assert labctl("down").out == "no lab is up\n"
    assert json.loads(labctl("down", "--all", "--json").out) == {"down": []}


def test_status_says_why_it_knows_nothing_of_a_lab(labctl: Labctl, runtime: Path) -> None:
    (make(runtime, "one", alive=True) / state.STATE).write_bytes(b"no pickle")
    told = labctl("status")
    assert told.out.startswith("one: damaged: the state of lab one cannot be read: ")
    assert told.out.endswith("run: labctl down one\n")


def test_several_labs_need_a_name_or_all(labctl: Labctl, runtime: Path) -> None:
    make(runtime, "one")
    make(runtime, "two")
    told = labctl("down")
    assert told.code == ExitCode.USAGE
    assert "one, two" in told.err
    assert {lab["state"] for lab in json.loads(labctl("status", "--json").out)} == {"dead"}
    assert labctl("down", "two").out == "lab two is down\n"
    assert labctl("down").out == "lab one is down\n"
    assert list(runtime.iterdir()) == []


def test_down_means_the_lab_that_the_environment_names(
    labctl: Labctl, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(runtime, "one")
    monkeypatch.setenv("LABCTL_LAB", "two")
    told = labctl("down")
    assert told.code == ExitCode.USAGE
    assert "there is no lab two, which LABCTL_LAB names" in told.err
    make(runtime, "two")
    make(runtime, "three")
    assert labctl("down").out == "lab two is down\n"
    assert labctl("down", "one").out == "lab one is down\n"
    make(runtime, "four")
    assert json.loads(labctl("down", "--all", "--json").out) == {"down": ["four", "three"]}


@pytest.mark.parametrize(
    ("verb", "variable"),
    [
        *((verb, "LABCTL_LAB") for verb in ("ssh", "exec", "console", "logs", "trace", "down")),
        *((verb, "LABCTL_ACCEL") for verb in ("up", "experiment")),
        ("up", "LABCTL_CONNECT"),
        *((verb, "LABCTL_RESULTS") for verb in ("results", "report", "experiment")),
    ],
)
def test_help_tells_the_variable_that_serves_as_an_option(verb: str, variable: str) -> None:
    assert variable in CliRunner().invoke(main.cli, [verb, "--help"]).output


def test_one_lab_that_does_not_go_does_not_keep_the_others(
    labctl: Labctl, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        make(runtime, name)
    real = teardown.end

    def end(folder: Path) -> None:
        if folder.name == "one":
            raise LabctlError("a link stays")
        real(folder)

    monkeypatch.setattr(teardown, "end", end)
    told = labctl("down", "--all")
    assert (told.code, told.out, told.err) == (
        ExitCode.ERROR,
        "lab two is down\n",
        "labctl: a link stays\n",
    )


def test_verbs_on_a_lab_that_is_coming_up_say_so(labctl: Labctl, runtime: Path) -> None:
    make(runtime, "one", alive=True)
    for words in (["ssh", "vm1"], ["exec", "vm1", "--", "true"], ["logs", "vm1"]):
        told = labctl(*words)
        assert told.code == ExitCode.ERROR
        assert "labctl: lab one is not up yet" in told.err


def test_up_that_fails_tells_the_reason(labctl: Labctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lab, "up", raising(GuestError("vm1 died while booting", "hint", "tail")))
    told = labctl("up", "bridged.yaml")
    assert (told.code, told.out) == (ExitCode.ERROR, "")
    assert told.err.splitlines()[-3:] == ["labctl: vm1 died while booting", "  hint", "tail"]


@pytest.mark.parametrize("words", [[], ["--json"]])
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (OSError(28, "No space left"), ExitCode.ERROR),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
    ],
)
def test_a_lab_that_cannot_be_told_of_does_not_stay(
    labctl: Labctl,
    runtime: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    fault: BaseException,
    code: int,
) -> None:
    class Fake:
        name, accel, timings = "one", "tcg", {"up": 1.0}
        topology = type("T", (), {"nodes": {}})
        directory = runtime / "one"

        def close(self) -> None:
            pass

    ended: list[Path] = []
    monkeypatch.setattr(prestart, "start_agent", lambda _uri: None)
    monkeypatch.setattr(Lab, "up", lambda *_, **__: Fake())
    monkeypatch.setattr(teardown, "end", ended.append)
    monkeypatch.setattr(status, "describe", lambda _folder: {})
    for name in ("_tell", "print_json"):
        monkeypatch.setattr(sys.modules["labctl.cli.up"], name, raising(fault))
    assert labctl("up", "bridged.yaml", *words).code == code
    assert ended == [runtime / "one"]


def test_words_after_the_node_belong_to_the_command(
    labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Node:
        model = SimpleNamespace(guest_kind=SimpleNamespace(is_machine=True))

        def words(self, line: str, *, shared: bool) -> list[str]:
            assert not shared  # a connection of its own, which no other session can disturb
            return ["ssh", "vm1", line]

        def session(self, command: Sequence[str]) -> list[str]:
            return ["ssh", "vm1", *command]

    class Sandbox:
        def enter(self, netns: str = "") -> list[str]:
            return ["enter", netns] if netns else ["enter"]

    class Fake:
        sandbox = Sandbox()
        directory = Path("/lab")
        topology = type("T", (), {"routers": {"r1": 1}})

        def node(self, _name: str) -> Node:
            return Node()

        def check_running(self, _name: str) -> None:
            pass

    became: list[list[str]] = []
    monkeypatch.setattr(Lab, "attach", lambda *_: Fake())
    monkeypatch.setattr(os, "execvp", lambda _program, words: became.append(words))
    monkeypatch.setattr(labs, "guard", lambda _check: None)
    labctl("ssh", "vm1", "--", "ssh", "vm2", "uname", "-a")
    labctl("ssh", "vm1", "ls", "--json", "-l")
    assert [word for word in became[0] if word != "--"] == [
        "enter", "ssh", "vm1", "ssh", "vm2", "uname", "-a",
    ]  # fmt: skip
    assert became[1] == ["enter", "ssh", "vm1", "ls", "--json", "-l"]
    became.clear()
    labctl("exec", "vm1", "--", "echo", "two words", "$HOME")
    assert became[0] == ["enter", "ssh", "vm1", "echo 'two words' '$HOME'"]


def test_what_labctl_becomes_dies_of_a_broken_pipe_like_any_program() -> None:
    become = "import sys; from labctl.cli.process import become; become(sys.argv[1:])"
    words = ["grep", "SigIgn", "/proc/self/status"]
    done = subprocess.run(
        [sys.executable, "-c", become, *words],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    ignored = int(done.stdout.split()[1], 16)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert not ignored & 1 << (number - 1)


def test_logs_leave_carriage_returns_out(
    labctl: Labctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "console").mkdir()
    (tmp_path / "console" / "vm1.log").write_bytes(b"one\r\ntwo\r\n")

    class Fake:
        directory = tmp_path

        def check_console(self, name: str) -> None:
            assert name == "vm1"

    monkeypatch.setattr(Lab, "attach", lambda *_: Fake())
    assert labctl("logs", "vm1").out == "one\ntwo\n"


# --- experiments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["pass"], ExitCode.OK),
        (["fail"], ExitCode.FAIL),
        (["error"], ExitCode.ERROR),
        (["skip"], ExitCode.SKIP),
        (["pass", "skip"], ExitCode.OK),
        (["pass", "fail"], ExitCode.FAIL),
        (["fail", "error"], ExitCode.ERROR),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_an_experiments_verdict_is_the_exit_code(
    labctl: Labctl,
    monkeypatch: pytest.MonkeyPatch,
    verdicts: list[str],
    code: int,
    as_json: bool,
) -> None:
    waiting = iter(verdicts)

    def run(experiment: Any, **_: object) -> tuple[Run, Path]:
        check = Check("ssh", Verdict(next(waiting)), "works", "as seen", ("a line of evidence",))
        arm = ArmResult.judge("ipv4", "an arm", [check])
        return Run.judge(
            "id", experiment.name, "it works", [arm], environment=Environment(),
            started="2026-01-01T00:00:00Z", timings={"experiment": 1.0}, story="the story",
        ), Path("/records/id")  # fmt: skip

    monkeypatch.setattr(runner, "run", run)
    words = ["bridged", "router-hop"][: len(verdicts)]
    told = labctl("experiment", *words, *(["--json"] if as_json else []))
    assert told.code == code
    if as_json:
        assert [one["verdict"] for one in json.loads(told.out)] == verdicts
    else:
        assert told.out.count("the story") == len(verdicts)
        assert told.out.count("/records/id") == len(verdicts)
        shown = sum(verdict != "pass" for verdict in verdicts)
        assert told.out.count("a line of evidence") == shown


class Kept:
    """A lab that a run left up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.topology = topology.load(topology.find_shipped("bridged.yaml"))


def failing(look: str = "", then: BaseException | None = None) -> Callable[..., tuple[Run, Path]]:
    """Return a `runner.run` whose arms fail and whose labs stay up; it looks where `look` says."""

    def run(experiment: Any, *, keeping: Any, **_: object) -> tuple[Run, Path]:
        lab = Kept(f"{experiment.name}-1")
        if look:
            keeping.look(lab, look)
        if then and experiment.name == "router-hop":
            raise then
        keeping.kept.append(lab)
        check = Check("ssh", Verdict.FAIL, "works", "hangs")
        arm = ArmResult.judge("ipv4", "an arm", [check])
        return Run.judge(
            "id", experiment.name, "it works", [arm], environment=Environment(),
            started="2026-01-01T00:00:00Z", timings={"experiment": 1.0}, partial=True,
        ), Path("/records/id")  # fmt: skip

    return run


@pytest.mark.parametrize("as_json", [False, True])
def test_labs_that_are_kept_are_told_with_what_to_do_and_the_exit_code_stays(
    labctl: Labctl, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    monkeypatch.setattr(runner, "run", failing("ipv4: fail: ssh: hangs"))
    words = ["--json"] if as_json else []
    told = labctl("experiment", "--keep-on-failure", "bridged", "router-hop", *words)
    assert told.code == ExitCode.FAIL
    for name in ("bridged-1", "router-hop-1"):
        assert told.err.count(f"lab {name} stays up:") == 1
        assert f"  labctl ssh --lab {name} vm1\n" in told.err
        assert f"  labctl trace --lab {name} vm1 vm2\n" in told.err
        assert f"  labctl down {name}\n" in told.err
    assert "Enter" not in told.err  # nobody is at a terminal
    if as_json:
        assert len(json.loads(told.out)) == 2


def test_a_lab_that_was_kept_is_told_also_when_the_rest_is_interrupted(
    labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "run", failing(then=KeyboardInterrupt()))
    told = labctl("experiment", "--keep-on-failure", "bridged", "router-hop")
    assert told.code == ExitCode.INTERRUPTED
    assert "lab bridged-1 stays up:" in told.err
    assert main.INTERRUPTED not in told.err
    told = labctl("experiment", "--keep-on-failure", "router-hop")
    assert (told.code, told.err.strip()) == (ExitCode.INTERRUPTED, main.INTERRUPTED)


class Terminal(io.StringIO):
    """Somebody's terminal."""

    def isatty(self) -> bool:
        return True


class Keys:
    """Somebody at it: a line, or what comes instead."""

    def __init__(self, fault: BaseException | None) -> None:
        self.fault = fault

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        if self.fault:
            raise self.fault
        return "\n"


@pytest.mark.parametrize("fault", [None, KeyboardInterrupt()])
def test_at_a_terminal_one_looks_at_the_lab_as_it_failed(
    monkeypatch: pytest.MonkeyPatch, fault: BaseException | None
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdin", Keys(fault))
    monkeypatch.setattr(sys, "stderr", screen)
    lab: Any = Kept("mine-1")
    with (
        Lines() as show,
        pytest.raises(KeyboardInterrupt) if fault else contextlib.nullcontext(),
    ):
        experiments._look(show, lab, "ipv4: fail: ssh: hangs")
    lines = screen.getvalue().splitlines()
    assert lines[0] == "ipv4: fail: ssh: hangs"
    assert "  labctl ssh --lab mine-1 vm1" in lines
    assert lines[-1] == "Enter ends the experiment and leaves the lab up, Ctrl-C takes it down."


def test_experiments_are_listed_with_what_they_show(labctl: Labctl) -> None:
    assert "router-hop" in labctl("experiments").out
    listed = json.loads(labctl("experiments", "--json").out)
    assert all(one["summary"] and one["hypothesis"] for one in listed)
