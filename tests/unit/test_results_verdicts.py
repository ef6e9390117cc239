"""Verdicts: what a set comes to, and that a pass has to be earned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.results import ArmResult, Check, Environment, Run, Verdict, combine

PASS, FAIL, ERROR, SKIP = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.SKIP
verdicts = st.lists(st.sampled_from(Verdict))


def check(verdict: Verdict, name: str = "ssh") -> Check:
    return Check(name, verdict, "works", "it does")


def run(*arms: ArmResult, partial: bool = False) -> Run:
    return Run.judge(
        "id", "bridged", "h", arms, environment=Environment(), started="", partial=partial
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ERROR),
        ([PASS], PASS),
        ([PASS, PASS], PASS),
        ([PASS, SKIP], PASS),
        ([SKIP], SKIP),
        ([SKIP, SKIP], SKIP),
        ([PASS, FAIL], FAIL),
        ([SKIP, FAIL], FAIL),
        ([FAIL, ERROR], ERROR),
        ([PASS, ERROR], ERROR),
        ([SKIP, ERROR], ERROR),
    ],
)
def test_a_set_comes_to_its_worst_member(given: list[Verdict], expected: Verdict) -> None:
    assert combine(given) is expected


@given(verdicts)
def test_a_set_passes_only_if_something_passed_and_nothing_failed(found: list[Verdict]) -> None:
    passes = PASS in found and FAIL not in found and ERROR not in found
    assert (combine(found) is PASS) == passes


@given(verdicts, st.randoms())
def test_order_does_not_matter(found: list[Verdict], random: object) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert combine(shuffled) is combine(found)


@given(verdicts, verdicts)
def test_grouping_hides_no_failure(one: list[Verdict], two: list[Verdict]) -> None:
    whole = combine(one + two)
    grouped = combine([combine(one), combine(two)])
    assert grouped is whole or (grouped is ERROR and not (one and two))


def test_an_iterator_is_read_once() -> None:
    assert combine(iter([SKIP, FAIL])) is FAIL


@pytest.mark.parametrize("verdict", [FAIL, ERROR, SKIP])
def test_an_arm_cannot_claim_a_pass_its_checks_do_not_give(verdict: Verdict) -> None:
    with pytest.raises(ValueError, match="its checks do not"):
        ArmResult("raw", "", PASS, (check(verdict),))


@pytest.mark.parametrize("verdict", [PASS, FAIL, ERROR])
def test_an_arm_cannot_claim_a_skip_without_a_reason_or_over_a_failure(verdict: Verdict) -> None:
    checks = (check(verdict),) if verdict is PASS else (check(SKIP), check(verdict))
    with pytest.raises(ValueError, match="its checks do not"):
        ArmResult("raw", "", SKIP, checks)


@pytest.mark.parametrize("verdict", [FAIL, ERROR])
def test_a_run_cannot_claim_a_skip_over_a_failure(verdict: Verdict) -> None:
    arms = tuple(ArmResult.judge(str(one), "", [check(one)]) for one in (SKIP, verdict))
    with pytest.raises(ValueError, match="its arms do not"):
        Run("id", "bridged", "h", SKIP, arms, Environment(), "")


@given(verdicts)
def test_what_is_given_up_never_passes_and_hides_no_failure(found: list[Verdict]) -> None:
    told = combine([*found, SKIP], given_up=True)
    worst = combine([*found, SKIP])
    assert told is (SKIP if worst is PASS else worst)


@pytest.mark.parametrize("checks", [(PASS, SKIP), (SKIP,)])
def test_a_skip_is_read_back_whether_something_passed_before_it_or_not(
    checks: tuple[Verdict, ...],
) -> None:
    passed = ArmResult.judge("control", "", [check(PASS)])
    arm = ArmResult.judge("raw", "", [check(one) for one in checks], given_up=True)
    rest = {"environment": Environment(), "started": ""}
    made = Run.judge("id", "bridged", "h", [passed, arm], given_up=True, **rest)  # type: ignore[arg-type]
    assert (arm.verdict, made.verdict) == (SKIP, SKIP)
    assert Run.from_json(made.to_json()) == made


def test_an_arm_of_an_older_record_may_pass_with_what_was_skipped_in_it() -> None:
    made = run(ArmResult("raw", "", PASS, (check(PASS), check(SKIP, "arm"))))
    assert Run.from_json(made.to_json()) == made


def test_an_arm_without_checks_is_no_pass() -> None:
    assert ArmResult.judge("raw", "", []).verdict is ERROR
    with pytest.raises(ValueError, match="its checks do not"):
        ArmResult("raw", "", PASS)


def test_an_arm_may_be_worse_than_its_checks() -> None:
    arm = ArmResult("raw", "the guest died after the first check", ERROR, (check(PASS),))
    assert run(arm).verdict is ERROR


def test_a_run_without_arms_is_an_error() -> None:
    assert run().verdict is ERROR


@pytest.mark.parametrize("verdict", [PASS, SKIP])
def test_a_partial_run_that_found_nothing_wrong_is_an_error(verdict: Verdict) -> None:
    assert run(ArmResult.judge("a", "", [check(verdict)]), partial=True).verdict is ERROR


def test_a_partial_run_keeps_the_failure_it_found() -> None:
    assert run(ArmResult.judge("a", "", [check(FAIL)]), partial=True).verdict is FAIL


@pytest.mark.parametrize("partial", [True, False])
def test_a_run_cannot_claim_a_pass(partial: bool) -> None:
    arms = (ArmResult.judge("a", "", [check(PASS if partial else FAIL)]),)
    with pytest.raises(ValueError, match=r"cannot pass|its arms do not"):
        Run("id", "bridged", "h", PASS, arms, Environment(), "", partial=partial)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_impossible_times_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        Check("ssh", PASS, "", "", seconds=seconds)


def test_text_that_is_no_unicode_is_kept_readable() -> None:
    odd = b"login\xff".decode(errors="surrogateescape")
    assert Check("ssh", PASS, "", odd).observed == "login?"
