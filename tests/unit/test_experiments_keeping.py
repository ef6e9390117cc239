"""A lab that stays up where its experiment does not pass, and the record all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from labctl import topology
from labctl.errors import GuestError, LabctlError
from labctl.experiments import Experiment, Trial, runner
from labctl.experiments import run_context as trials
from labctl.experiments.run_context import Skip
from labctl.experiments.runner import Keeping
from labctl.lab.lab import Lab
from labctl.results import store
from labctl.results.model import Run, Verdict

Body = Callable[[Trial], None]


def lab_of(fake: FakeLab) -> Any:
    return fake


class FakeLab:
    """A lab that notes how it ends."""

    name = "mine-1"
    topology = topology.load(topology.find_shipped("bridged.yaml"))

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.timings = {"up": 1.0}
        self.ends: list[str] = []
        self.fault: LabctlError | None = None
        self.sandbox = self
        (directory / "console").mkdir(parents=True)
        (directory / "console" / "vm1.log").write_text("Linux version\n")

    def keep(self) -> None:
        if self.fault:
            raise self.fault
        self.ends.append("keep")

    def check_programs(self) -> None:
        pass

    def close(self) -> None:
        self.ends.append("close")

    def down(self) -> None:
        self.ends.append("down")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeLab:
    lab = FakeLab(tmp_path / "lab")
    monkeypatch.setattr(Lab, "up", lambda *_, **__: lab)
    monkeypatch.setattr(runner, "_environment", lambda _lab, host: host)
    return lab


def run(body: Body, tmp_path: Path, keeping: Keeping | None) -> Run:
    experiment = Experiment("mine", "bridged.yaml", "it works", body)
    found, _ = runner.run(experiment, results=tmp_path / "results", keeping=keeping)
    assert store.load("last", tmp_path / "results") == found
    return found


def arms(*answers: bool | Exception | None) -> Body:
    """Return a body of arms that come to these answers."""

    def body(trial: Trial) -> None:
        for number, answer in enumerate(answers):
            with trial.arm(f"arm {number}", "an arm") as arm:
                if isinstance(answer, Exception):
                    raise answer
                arm.check("c", "yes", "?", answer)
                arm.check("after", "yes", "yes", True)

    return body


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (False, Verdict.FAIL),
        (None, Verdict.ERROR),
        (AssertionError("no"), Verdict.FAIL),
        (GuestError("vm1 is gone"), Verdict.ERROR),
        (KeyError("vm9"), Verdict.ERROR),
    ],
)
def test_the_first_arm_that_does_not_pass_is_the_last_and_its_lab_stays(
    fake: FakeLab, tmp_path: Path, answer: bool | Exception | None, verdict: Verdict
) -> None:
    keeping = Keeping()
    found = run(arms(True, answer, True), tmp_path, keeping)
    assert fake.ends == ["keep", "close"]
    (kept,) = keeping.kept
    assert kept is lab_of(fake)
    assert (found.verdict, found.partial) == (verdict, True)
    assert [arm.name for arm in found.arms][:2] == ["arm 0", "arm 1"]
    assert "arm 2" not in [arm.name for arm in found.arms]
    assert found.notes == ("the lab was kept up as mine-1",)
    (log,) = (tmp_path / "results" / found.id / "console").iterdir()
    assert log.read_text() == "Linux version\n"


def test_an_arm_that_does_not_pass_is_checked_to_its_end(fake: FakeLab, tmp_path: Path) -> None:
    found = run(arms(False), tmp_path, Keeping())
    assert [check.name for check in found.arms[0].checks] == ["c", "after"]
    assert fake.ends


@pytest.mark.parametrize("answers", [(True,), (True, Skip("no such NIC"))])
def test_what_passes_or_is_skipped_goes_down(
    fake: FakeLab, tmp_path: Path, answers: tuple[bool | Exception, ...]
) -> None:
    keeping = Keeping()
    found = run(arms(*answers), tmp_path, keeping)
    assert (fake.ends, keeping.kept, found.partial) == (["down"], [], False)


def test_nothing_stays_up_unasked(fake: FakeLab, tmp_path: Path) -> None:
    found = run(arms(False, True), tmp_path, None)
    assert (fake.ends, len(found.arms), found.partial) == (["down"], 2, False)


def test_a_body_that_breaks_outside_of_its_arms_keeps_the_lab_too(
    fake: FakeLab, tmp_path: Path
) -> None:
    def body(trial: Trial) -> None:
        arms(True)(trial)
        raise GuestError("vm1 is gone")

    assert run(body, tmp_path, Keeping()).verdict is Verdict.ERROR
    assert fake.ends == ["keep", "close"]


def test_one_looks_before_anything_is_undone(fake: FakeLab, tmp_path: Path) -> None:
    steps: list[str] = []

    def look(lab: Any, what: str) -> None:
        assert lab is fake
        assert not fake.ends
        steps.append(what)

    def body(trial: Trial) -> None:
        trial.defer(steps.append, "trial undone")
        with trial.arm("one", "an arm") as arm:
            arm.defer(steps.append, "arm undone")
            arm.check("fine", "yes", "yes", True)
            arm.check("c", "yes", "no", False)
            steps.append("goes on")
            arm.check("d", "yes", "no", None)

    run(body, tmp_path, Keeping(look))
    assert steps == ["one: fail: c: no", "goes on", "arm undone", "trial undone"]
    assert fake.ends == ["keep", "close"]


def test_an_own_except_does_not_swallow_the_end(fake: FakeLab, tmp_path: Path) -> None:
    def body(trial: Trial) -> None:
        for _ in range(2):
            try:
                arms(False)(trial)
            except Exception:
                raise AssertionError("swallowed") from None

    assert len(run(body, tmp_path, Keeping()).arms) == 1
    assert fake.ends


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_who_looks_and_interrupts_has_the_verdict_recorded_and_the_lab_down(
    fake: FakeLab, tmp_path: Path
) -> None:
    undone: list[int] = []

    def body(trial: Trial) -> None:
        trial.defer(undone.append, 1)
        arms(False, True)(trial)

    keeping = Keeping(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(body, tmp_path, keeping)
    assert (fake.ends, keeping.kept, undone) == (["down"], [], [1])
    found = store.load("last", tmp_path / "results")
    assert (found.verdict, found.partial) == (Verdict.FAIL, True)
    (listed,) = store.list_runs(tmp_path / "results")
    assert listed.to_json()["state"] == "interrupted"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(0)])
def test_nobody_is_asked_to_look_at_what_the_user_broke_off(
    fake: FakeLab, tmp_path: Path, stop: BaseException
) -> None:
    looked: list[str] = []

    def body(trial: Trial) -> None:
        with trial.arm("one", "an arm"):
            raise stop

    keeping = Keeping(lambda _lab, what: looked.append(what))
    with pytest.raises(type(stop)):
        run(body, tmp_path, keeping)
    assert (fake.ends, looked, keeping.kept) == (["down"], [], [])


def test_a_lab_that_has_ended_cannot_stay_and_is_told(fake: FakeLab, tmp_path: Path) -> None:
    fake.fault = LabctlError("the lab went down meanwhile")
    keeping = Keeping()
    found = run(arms(False), tmp_path, keeping)
    assert (fake.ends, keeping.kept) == (["down"], [])
    assert found.arms[-1].checks[0].observed == "the lab went down meanwhile"
    assert found.notes == ()


def test_how_long_one_looks_is_no_part_of_the_arms_time(
    fake: FakeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]

    def look(*_: object) -> None:
        clock[0] += 1000

    monkeypatch.setattr(trials, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    (arm,) = run(arms(False), tmp_path, Keeping(look)).arms
    assert arm.seconds == sum(check.seconds for check in arm.checks) == 0
    assert fake.ends
