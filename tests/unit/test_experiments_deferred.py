"""What is put off to the end of an arm or an experiment: all of it happens, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labctl.errors import GuestError, LabctlError
from labctl.experiments.deferred import Deferred
from labctl.experiments.run_context import Arm, Skip, Trial
from labctl.results.model import ArmResult, Verdict


def run(tmp_path: Path, body: Callable[[Arm], None]) -> ArmResult:
    nothing: Any = None
    trial = Trial(nothing, tmp_path, tmp_path)
    with trial.arm("a", "an arm") as arm:
        body(arm)
    return trial.arms[0]


def passes(arm: Arm) -> None:
    arm.check("c", "yes", "yes", True)


def fail(what: str = "vm1 is gone") -> None:
    raise GuestError(what, "read its console", "a line")


def test_what_was_deferred_last_is_called_first(tmp_path: Path) -> None:
    done: list[Any] = []

    def pair(first: int, *, second: int) -> None:
        done.append((first, second))

    def body(arm: Arm) -> None:
        arm.defer(done.append, 1)
        arm.defer(pair, 2, second=3)
        passes(arm)
        assert done == []

    assert run(tmp_path, body).verdict is Verdict.PASS
    assert done == [(2, 3), 1]


@pytest.mark.parametrize(
    ("end", "verdict"),
    [
        (AssertionError("no"), Verdict.FAIL),
        (GuestError("vm1 is gone"), Verdict.ERROR),
        (Skip("not here"), Verdict.SKIP),
    ],
)
def test_it_is_called_however_the_arm_ends(
    tmp_path: Path, end: Exception, verdict: Verdict
) -> None:
    done: list[int] = []

    def body(arm: Arm) -> None:
        arm.defer(done.append, 1)
        raise end

    assert run(tmp_path, body).verdict is verdict
    assert done == [1]


def test_one_that_fails_is_an_error_and_stops_no_other(tmp_path: Path) -> None:
    done: list[int] = []

    def body(arm: Arm) -> None:
        arm.defer(done.append, 1)
        arm.defer(fail)
        arm.defer(dict[str, int]().__getitem__, "vm9")
        arm.defer(done.append, 2)
        passes(arm)

    arm = run(tmp_path, body)
    assert (done, arm.verdict) == ([2, 1], Verdict.ERROR)
    first, second = arm.checks[1:]
    assert (first.name, second.name) == ("deferred", "deferred #2")
    assert "KeyError: 'vm9'" in first.observed
    assert second.observed == "fail: vm1 is gone"
    assert second.evidence == ("read its console", "a line")


def test_a_failure_and_that_of_the_deferred_call_are_both_told(tmp_path: Path) -> None:
    def body(arm: Arm) -> None:
        arm.defer(fail)
        raise AssertionError("lost")

    assert [check.observed for check in run(tmp_path, body).checks] == ["lost", "fail: vm1 is gone"]


def test_what_is_deferred_meanwhile_is_called_too(tmp_path: Path) -> None:
    done: list[int] = []

    def body(arm: Arm) -> None:
        arm.defer(lambda: arm.defer(done.append, 1))
        passes(arm)

    run(tmp_path, body)
    assert done == [1]


def test_an_interrupt_goes_on_when_all_calls_are_made_and_is_no_pass(tmp_path: Path) -> None:
    done: list[int] = []
    nothing: Any = None
    trial = Trial(nothing, tmp_path, tmp_path)

    def interrupted() -> None:
        raise KeyboardInterrupt

    def body() -> None:
        with trial.arm("a", "an arm") as arm:
            arm.defer(done.append, 1)
            arm.defer(interrupted)
            passes(arm)

    with pytest.raises(KeyboardInterrupt):
        body()
    assert done == [1]
    assert trial.arms[0].verdict is Verdict.ERROR


def test_nothing_is_called_twice() -> None:
    done: list[int] = []
    told: list[LabctlError] = []
    deferred = Deferred()
    deferred.add(done.append, 1)
    deferred.add(fail, "once")
    deferred.run(told.append)
    deferred.run(told.append)
    assert done == [1]
    assert [error.message for error in told] == ["fail: once"]
