"""The runner of kills: what it plans, and that it finds what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "integration")]

from faults.journal import Journal, Outcome, table  # noqa: E402
from faults.plan import HAND, OTHERS, SHORTAGES, SIGNALS, Round, plan  # noqa: E402
from faults.stage import said  # noqa: E402
from faults.strike import Done  # noqa: E402


def test_a_round_follows_from_seed_and_number() -> None:
    rounds = [plan(7, number) for number in range(400)]
    assert rounds == [plan(7, number) for number in range(400)]
    assert rounds != [plan(8, number) for number in range(400)]
    assert {one.verb for one in rounds} == set(HAND)
    for verb, others in OTHERS.items():
        victims = {one.victim for one in rounds if one.verb == verb}
        assert victims <= {"labctl", *others}
    assert {one.signal for one in rounds} == {*SIGNALS, *SHORTAGES}
    assert {one.victim for one in rounds if not one.is_kill} == {"labctl"}


def round_of(victim: str = "labctl", signal: str = "KILL", verb: str = "up") -> Round:
    return Round(1, verb, victim, signal, 0.5, 0.1)


def done(status: int | None, stderr: str = "labctl: words\n", *, struck: bool = True) -> Done:
    return Done(status, stderr, 2.0, 1.0, struck)


@pytest.mark.parametrize(
    ("one", "ended"),
    [
        (round_of(), done(-9)),
        (round_of(), done(0)),
        (round_of(signal="TERM"), done(130)),
        (round_of(signal="INT"), done(-2, "")),
        (round_of(signal="STOP"), done(0)),
        (round_of("qemu"), done(3)),
        (round_of("qemu", "STOP"), done(3)),
        (round_of("agent", "STOP"), done(0)),
        (round_of(signal="FULL"), done(3)),
        (round_of(signal="MEMORY"), done(0)),
    ],
)
def test_what_ends_as_it_should_is_no_finding(one: Round, ended: Done) -> None:
    assert said(one, ended, 0) == []


@pytest.mark.parametrize(
    ("one", "ended", "words"),
    [
        (round_of(), done(None), "did not end"),
        (round_of(), done(-9, "Traceback (most recent call last):"), "traceback"),
        (round_of("qemu"), done(3, "labctl: x\n  this is a fault of labctl"), "traceback"),
        (round_of(), done(1), "exit 1"),
        (round_of(signal="TERM"), done(-15), "exit -15"),
        (round_of(signal="STOP"), done(3), "exit 3"),
        (round_of("qemu"), done(130), "exit 130"),
        (round_of(signal="FILES"), done(1), "exit 1"),
        (round_of(signal="FULL"), done(3, ""), "without a word"),
        (round_of("qemu"), done(-6, ""), "exit -6"),
        (round_of("qemu"), done(3, ""), "without a word"),
        (round_of("observer", "STOP", "trace"), done(0), "exit 0"),
        (round_of(), done(3, struck=False), "exit 3"),
    ],
)
def test_what_ends_as_it_should_not_is_found(one: Round, ended: Done, words: str) -> None:
    usual = 1 if one.verb == "trace" else 0
    assert any(words in finding for finding in said(one, ended, usual))


def test_a_campaign_goes_on_from_what_is_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "kept")
    assert journal.outcomes() == []
    kept = [
        Outcome(7, 0, "up", "labctl", "KILL", 0.5, True, 1.0, -9),
        Outcome(7, 1, "down", "qemu", "STOP", 0.5, True, 1.0, 0, ["a file stays"]),
        Outcome(7, 2, "down", "qemu", "KILL", 0.5, False, 1.0, 0),
        Outcome(7, 3, "up", "labctl", "FULL", 0.5, True, 1.0, 3),
    ]
    for one in kept:
        journal.add(one)
    with (tmp_path / "kept" / "rounds.jsonl").open("a") as file:
        file.write('{"seed": 7, "numb')  # where a kill came
    assert Journal(tmp_path / "kept").outcomes() == kept
    last = table(kept).splitlines()[-1].split()
    assert last == ["all", "4", "2", "1", "1", "1", "1", "1"]
