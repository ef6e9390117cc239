"""What becomes of a runner's steps: verdicts, a runner that breaks, and what is written."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from junitparser import JUnitXml

from labctl.errors import DeadlineError, UsageError
from labctl.sandbox import owned
from runner import image, plan, sessions, store
from runner.__main__ import _options, _sessions
from runner.machine import Ended, Machine, Processor, RunnerError, TimeoutEndedError

Answers = dict[str, int | Exception]


class Pretended:
    """A machine that answers as it is told; the comparison is what `differs` says."""

    uptime = 1.0

    def __init__(self, answers: Answers, differs: str, installed: int = 0) -> None:
        self._answers = answers
        self._differs = differs
        self._installed = installed

    def ok(self, _user: str, _script: str, _seconds: float) -> str:
        return ""

    def fetch(self, _user: str, _path: str, _target: Path) -> None: ...

    def run(self, _user: str, script: str, _seconds: float, log: Path | None = None) -> Ended:
        if log:
            log.write_text("said\n")
        if script.endswith("make install"):
            return Ended(self._installed, "no such package\n", 1.0)
        if "snapshot.py" in script:
            if self._differs == "late":
                raise TimeoutEndedError("did not end within 900 s")
            return Ended(int(bool(self._differs)), self._differs, 1.0)
        ((_, step),) = [(w, t) for w, t in pairwise(shlex.split(script)) if w == "-c"]
        answer = self._answers[step.rstrip(";").splitlines()[-1]]
        if isinstance(answer, Exception):
            raise answer
        return Ended(answer, "said\n", 1.0)


class Machines:
    """Gives out pretended machines, one a boot; the first ones may break."""

    def __init__(self, answers: Answers, differs: str, break_at: int, installed: int = 0) -> None:
        self.boots = 0
        self._given = answers, differs, installed
        self._break_at = break_at

    @contextlib.contextmanager
    def booted(self, *_: object) -> Iterator[Pretended]:
        self.boots += 1
        if self.boots <= self._break_at:
            raise RunnerError("its kernel is in trouble")
        yield Pretended(*self._given)


def run(
    monkeypatch: pytest.MonkeyPatch,
    results: Path,
    answers: Answers,
    *,
    differs: str = "",
    break_at: int = 0,
    installed: int = 0,
) -> tuple[int, list[tuple[str, str]], int]:
    """Run one session of steps; return the exit code, each outcome and how many were booted."""
    machines = Machines(answers, differs, break_at, installed)
    monkeypatch.setattr(sessions, "booted", machines.booted)
    monkeypatch.setattr(store, "get", lambda suite, **_: image.Image(suite, results))
    steps = tuple(plan.Step(f"step {name}", "root", name, 1) for name in answers)
    options = sessions.Options(Processor(), results)
    status = sessions.run([plan.Session("one", "bookworm", steps)], options)
    return status, [(one.name, one.verdict) for one in options.outcomes], machines.boots


SAME = ("nothing left, nothing changed", "pass")


def test_steps_that_pass_in_a_machine_that_stays_as_it_was_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = run(monkeypatch, tmp_path, {"true": 0})
    assert told == (0, [("root: step true", "pass"), SAME], 1)


def test_a_tree_that_cannot_be_installed_is_an_error_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = run(monkeypatch, tmp_path, {"true": 0}, installed=2)
    assert told == (3, [("install", "error")], 1)
    told = run(monkeypatch, tmp_path, {"true": 0}, installed=255)  # ssh's own
    assert told == (3, [("runner", "error")], 2)


@pytest.mark.parametrize(
    ("answer", "verdict", "status"),
    [
        (1, "fail", 1),
        (2, "fail", 1),
        (3, "error", 3),
        (TimeoutEndedError("did not end within 1 s"), "error", 3),
    ],
)
def test_a_step_that_does_not_pass_is_no_pass_and_the_others_still_run(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    answer: int | Exception,
    verdict: str,
    status: int,
) -> None:
    told = run(monkeypatch, tmp_path, {"bad": answer, "true": 0})
    outcomes = [("root: step bad", verdict), ("root: step true", "pass"), SAME]
    assert told == (status, outcomes, 1)


def test_a_machine_that_is_not_as_before_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status, outcomes, _ = run(monkeypatch, tmp_path, {"true": 0}, differs="left file /x")
    assert (status, outcomes[-1]) == (1, (SAME[0], "fail"))


def test_a_runner_that_breaks_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = run(monkeypatch, tmp_path, {"true": 0}, break_at=1)
    assert told == (0, [("root: step true", "pass"), SAME], 2)


def test_a_runner_that_breaks_twice_is_an_error_and_never_a_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(monkeypatch, tmp_path, {"true": 0}, break_at=2) == (3, [("runner", "error")], 2)
    for what in (RunnerError("it hung"), 255):  # ssh's own: the connection was lost
        assert run(monkeypatch, tmp_path, {"true": what}) == (3, [("runner", "error")], 2)


def test_nothing_run_is_no_pass(tmp_path: Path) -> None:
    assert sessions.run([], sessions.Options(Processor(), tmp_path)) == 3


def test_junit_tells_failures_and_errors_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(monkeypatch, tmp_path, {"a": 0, "b": 1, "c": 3})
    report = JUnitXml.fromfile(str(tmp_path / "tests.xml"))
    assert (report.tests, report.failures, report.errors) == (4, 1, 1)


def test_a_comparison_that_does_not_end_is_the_runner_s_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = run(monkeypatch, tmp_path, {"true": 0}, differs="late")
    assert told == (3, [("runner", "error")], 2)


def test_what_an_earlier_run_wrote_is_not_taken_for_this_one_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tests.xml").write_text("earlier")
    monkeypatch.setattr(store, "get", lambda *_, **__: sys.exit("no image"))
    with pytest.raises(SystemExit):
        sessions.run([plan.Session("one", "bookworm", ())], sessions.Options(Processor(), tmp_path))
    report = JUnitXml.fromfile(str(tmp_path / "tests.xml"))
    assert (report.tests, report.errors) == (1, 1)


def test_a_runner_that_broke_once_is_told_in_the_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(monkeypatch, tmp_path, {"true": 0}, break_at=1)
    written = (tmp_path / "tests.xml").read_text()
    assert "try 1: the runner broke: its kernel is in trouble" in written


def test_junit_is_whole_whatever_a_step_printed(tmp_path: Path) -> None:
    said = sessions.Outcome("one", "step", "fail", message="\x1b[1mno", output="\x1b[31mred\x00")
    sessions._write_junit([said], tmp_path / "tests.xml")
    assert JUnitXml.fromfile(str(tmp_path / "tests.xml")).failures == 1


def test_skipped_tests_are_counted_with_their_reasons(tmp_path: Path) -> None:
    file = tmp_path / "tests.xml"
    assert sessions._skips(file) == ""
    skipped = '<testcase name="a"><skipped message="needs root"/></testcase>'
    file.write_text(f"<testsuites><testsuite>{skipped * 2}<testcase/></testsuite></testsuites>")
    assert sessions._skips(file) == "2 of 3 tests skipped: needs root (2)"


def test_a_command_that_fails_before_a_pipe_fails_its_step(tmp_path: Path) -> None:
    home = tmp_path / "labctl/.venv/bin"
    home.mkdir(parents=True)
    (home / "activate").write_text("")
    words = ["bash", "-c", plan.ENTER + "false | cat\n"]
    assert subprocess.run(words, env={"HOME": str(tmp_path)}, check=False).returncode == 1


def test_a_step_that_hangs_is_ended_in_the_machine(tmp_path: Path) -> None:
    """By timeout(1): what only this side gives up would go on beside the next step."""
    scripts = []

    class Slow(Pretended):
        def run(self, _user: str, script: str, _seconds: float, log: Path | None = None) -> Ended:
            scripts.append(script)
            assert log
            return Ended(124, "", 1.5)

    step = plan.Step("hangs", "root", "sleep 1000", 1)
    session = plan.Session("one", "bookworm", (step,))
    machine = Slow({}, "")
    outcome = sessions._step(machine, session, step, tmp_path)  # type: ignore[arg-type]
    assert (outcome.verdict, outcome.message) == ("error", "did not end within 1 s")
    done = subprocess.run(["bash", "-c", scripts[0].replace("set -euo", "sleep 9; #")], check=False)
    assert done.returncode == 124
    done = subprocess.run(
        ["bash", "-c", scripts[0].replace("set -euo", "exit 255; #")], check=False
    )
    assert done.returncode == 254


def test_the_words_choose_among_sessions() -> None:
    def chosen(*words: str) -> list[tuple[str, str, int]]:
        found = _sessions(_options().parse_args(["kvm", *words]))
        return [(one.suite, one.name, len(one.steps)) for one in found]

    assert chosen("--profile", "quick") == [("bookworm", "quick", 5), ("trixie", "quick", 5)]
    assert chosen("--profile", "quick", "--suite", "trixie", "--user", "root") == [
        ("trixie", "quick", 2)
    ]
    assert chosen("--only", "[lr]*", "--suite", "bookworm") == [
        ("bookworm", "lab", 4), ("bookworm", "root", 4), ("bookworm", "lacking", 1),
    ]  # fmt: skip
    assert chosen("--suite", "bookworm", "--", "true") == [("bookworm", "command", 2)]


def sleeper(folder: Path, console: str) -> Iterator[Machine]:
    file = folder / "console.log"
    file.write_text(console)
    (folder / "qemu.log").write_text("qemu: no memory\n")
    child = subprocess.Popen(["sleep", "1000"])
    with contextlib.closing(Machine(child, folder, file)) as machine:
        yield machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield from sleeper(tmp_path, "[    1.0] kvm: Nested Virtualization enabled\n")


def test_a_machine_that_runs_is_well(machine: Machine) -> None:
    machine.check()


@pytest.mark.parametrize(
    "line",
    [
        "Kernel panic - not syncing: Fatal exception",
        "BUG: unable to handle page fault for address: ffffc90000",
        "watchdog: BUG: soft lockup - CPU#1 stuck for 22s!",
        "rcu: INFO: rcu_preempt self-detected stall on CPU",
    ],
)
def test_a_kernel_in_trouble_is_the_runner_s_error(machine: Machine, line: str) -> None:
    machine.check()
    with machine.console.open("a") as console:
        console.write(f"[ 3480.1] {line}\n")
    with pytest.raises(RunnerError, match="in trouble.*" + line[:12]):
        machine.check()


def test_a_qemu_that_ended_is_the_runner_s_error(machine: Machine) -> None:
    machine.close()
    with pytest.raises(RunnerError, match=r"QEMU has ended .*no memory"):
        machine.check()


@pytest.mark.skipif(not (image.CHECKOUT / ".git").exists(), reason="this is no clone")
def test_the_tree_under_test_is_what_is_there(tmp_path: Path) -> None:
    bundle = tmp_path / "labctl.bundle"
    image.write_bundle(bundle)
    clone = tmp_path / "clone"
    words = ["git", "clone", "--quiet", "--branch", "main", str(bundle), str(clone)]
    subprocess.run(words, check=True)
    assert (clone / "Makefile").read_bytes() == (image.CHECKOUT / "Makefile").read_bytes()
    assert (clone / "tests/runner/provision.sh").stat().st_mode & 0o111
    assert not (clone / ".venv").exists()


def test_an_image_is_known_by_its_suite() -> None:
    assert store.digest("bookworm") == store.digest("bookworm") != store.digest("trixie")


def test_the_words_of_a_command_stay_what_they_are(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "ssh", lambda *_: ["sh", "-c", 'eval "$1"', "sh"])
    assert machine.interact("root", ["sh", "-c", "exit 7; exit 8"]) == 7


def pretend_to_build(monkeypatch: pytest.MonkeyPatch, cache: Path) -> list[str]:
    built: list[str] = []

    def build(made: image.Image, _part: Path) -> None:
        built.append(made.suite)
        made.known_hosts.write_text(f"{len(built)}")

    monkeypatch.setattr(store, "build", build)
    monkeypatch.setattr(store, "_in_use", {})
    monkeypatch.setattr("labctl.sandbox.paths.cache", lambda: cache)
    monkeypatch.setattr(store, "digest", lambda _: f"{len(built):016}")
    return built


def test_an_image_that_another_checkout_boots_from_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_to_build(monkeypatch, tmp_path)
    first = store.get("bookworm")
    holder = f"""import fcntl, os, sys, time
fcntl.flock(os.open({str(first.known_hosts)!r}, os.O_RDONLY), fcntl.LOCK_SH)
print(flush=True)
time.sleep(1000)"""
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        os.close(store._in_use.pop(first.folder))
        second = store.get("bookworm")
        assert first.known_hosts.exists()
        assert second.known_hosts.exists()
        other.kill()
    third = store.get("bookworm")
    assert not first.folder.exists()
    assert third.known_hosts.exists()
    assert second.folder.exists()  # this process boots from it
    assert not list((tmp_path / "runner").glob(".building-*"))


def test_a_build_that_hangs_elsewhere_is_waited_for_and_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pretend_to_build(monkeypatch, tmp_path)
    monkeypatch.setattr(store, "WAIT_SECONDS", 0.0)
    (tmp_path / "runner").mkdir()
    with (tmp_path / "runner/.bookworm.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DeadlineError, match="another build of a bookworm machine"):
            store.get("bookworm")
    assert "waiting for it" in capfd.readouterr().err
    assert store.get("bookworm").known_hosts.exists()


def test_only_what_the_runner_made_is_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_to_build(monkeypatch, tmp_path)
    others = [
        tmp_path / "runner" / name / "file"
        for name in (".building-bookworm-1", "bookworm-of-mine", ".lr-1", ".share-1")
    ]
    for other in others:
        other.parent.mkdir(parents=True)
        other.touch()
    killed = tmp_path / "runner" / ".building-bookworm-2"
    owned.make(killed)
    (killed / "root.tar").touch()
    store.get("bookworm")
    assert not killed.exists()
    with owned.temporary(tmp_path / "runner", ".share-"):
        assert all(other.exists() for other in others)
    results = tmp_path / "results"
    (results / "bookworm-one").mkdir(parents=True)
    (results / "bookworm-one" / "file").touch()
    with pytest.raises(UsageError, match="no run made it"):
        sessions.run([plan.Session("one", "bookworm", ())], sessions.Options(Processor(), results))
    assert (results / "bookworm-one" / "file").exists()


def test_machines_are_made_anew_once_a_suite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def get(suite: str, *, anew: bool) -> image.Image:
        asked.append(anew)
        return image.Image(suite, tmp_path)

    monkeypatch.setattr(store, "get", get)
    monkeypatch.setattr(sessions, "booted", Machines({"true": 0}, "", 1).booted)
    steps = (plan.Step("step", "root", "true", 1),)
    options = sessions.Options(Processor(), tmp_path, anew=True)
    named = [plan.Session(name, "bookworm", steps) for name in ("one", "two")]
    assert sessions.run(named, options) == 0
    assert asked == [True, False, False]


def test_a_build_that_is_interrupted_leaves_no_process(tmp_path: Path) -> None:
    """A program that cleans up, with a child of its own, as mmdebstrap has."""
    program = (
        f"trap 'touch {tmp_path}/cleaned; exit 1' TERM; sleep 1000 & echo $! >{tmp_path}/pid; wait"
    )
    ours = f"""\
import signal, sys
from runner import image
signal.signal(signal.SIGTERM, signal.default_int_handler)
image._run(["sh", "-c", {program!r}], {{"PATH": "/usr/bin:/bin"}})"""
    child = subprocess.Popen(
        [sys.executable, "-c", ours],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        stderr=subprocess.DEVNULL,
    )
    pid = tmp_path / "pid"
    while not pid.exists() or not pid.read_text().strip():
        assert child.poll() is None
        time.sleep(0.05)
    child.terminate()
    assert child.wait(30) != 0
    assert (tmp_path / "cleaned").exists()
    state = Path(f"/proc/{pid.read_text().strip()}/stat")
    assert not state.exists() or ") Z" in state.read_text()


def test_a_boot_that_is_interrupted_leaves_no_qemu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = subprocess.Popen(["sleep", "1000"])
    machine = Machine(child, tmp_path, tmp_path / "console.log")

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, "wait_for_ssh", interrupt)
    monkeypatch.setattr(Machine, "_launch", lambda *_: machine)
    made = image.Image("bookworm", tmp_path)
    with (
        pytest.raises(KeyboardInterrupt),
        Machine.start(made, Processor(), memory=1, share=tmp_path, console=machine.console),
    ):
        pass
    assert child.poll() is not None
