"""Comparing two runs."""

from __future__ import annotations

import json
from dataclasses import replace

from labctl.results import (
    ArmResult,
    Check,
    Environment,
    Run,
    Verdict,
    diff,
    difference_tables,
)

SSH = Check("ssh", Verdict.PASS, "works", "works", ("SYN seq 1",), None, 0.3)
SYN = Check("syn", Verdict.PASS, "partial", "partial", (), "tap")
ENVIRONMENT = Environment(
    host_kernel="6.1", accelerator="tcg", offloads={"vm1/eth0": {"tap": {"tso": True}}}
)


def run(
    *checks: Check,
    run_id: str = "a",
    environment: Environment = ENVIRONMENT,
    offload: bool = True,
    partial: bool = False,
) -> Run:
    offloads = {"vm1/eth0": {"guest": {"tx": offload}}}
    arms = [ArmResult.judge("raw", "", checks, offloads=offloads, seconds=len(run_id))]
    return Run.judge(
        run_id, "e", "h", arms, environment=environment, started=run_id, partial=partial
    )


def test_runs_that_differ_in_times_and_packets_only_are_the_same() -> None:
    other = replace(SSH, evidence=("SYN seq 99",), seconds=7.0)
    found = diff(run(SSH, SYN), run(other, SYN, run_id="b"))
    assert found.same
    assert found.same_verdicts
    assert difference_tables(found) == []


def test_a_changed_verdict_shows_at_every_level() -> None:
    failed = replace(SYN, verdict=Verdict.FAIL, observed="bad")
    found = diff(run(SSH, SYN), run(SSH, failed, run_id="b"))
    assert [(c.key, c.a, c.b) for c in found.verdicts] == [
        ("verdict", "pass", "fail"),
        ("arm raw", "pass", "fail"),
    ]
    assert [(c.arm, c.name, c.kind) for c in found.checks] == [("raw", "syn [tap]", "verdict")]
    assert not found.same_verdicts


def test_another_observation_with_the_same_verdict_is_told_apart() -> None:
    found = diff(run(SSH), run(replace(SSH, observed="works slowly"), run_id="b"))
    assert [c.kind for c in found.checks] == ["observed"]
    assert found.same_verdicts
    assert not found.same


def test_added_and_removed_checks_are_named() -> None:
    found = diff(run(SSH), run(SYN, run_id="b"))
    assert {(c.name, c.kind) for c in found.checks} == {("ssh", "removed"), ("syn [tap]", "added")}
    assert not found.same_verdicts


def test_a_check_name_used_twice_is_not_lost() -> None:
    second = replace(SSH, verdict=Verdict.FAIL)
    found = diff(run(SSH, SSH), run(SSH, second, run_id="b"))
    assert [(c.name, c.kind) for c in found.checks] == [("ssh #2", "verdict")]


def test_an_arm_name_used_twice_is_not_lost_in_an_older_record() -> None:
    def old(run_id: str, *verdicts: Verdict) -> Run:
        arms = [
            ArmResult.judge(
                "try", "", [replace(SSH, verdict=one)], offloads={"vm1/eth0": {"tap": {"tso": tso}}}
            )
            for one, tso in zip(verdicts, (True, False), strict=True)
        ]
        return Run.judge(run_id, "e", "h", arms, environment=ENVIRONMENT, started="")

    found = diff(old("a", Verdict.FAIL, Verdict.FAIL), old("b", Verdict.PASS, Verdict.FAIL))
    assert [(c.key, c.a, c.b) for c in found.verdicts] == [("arm try", "fail", "pass")]
    assert [(c.arm, c.name, c.kind) for c in found.checks] == [("try", "ssh", "verdict")]
    found = diff(old("a", Verdict.FAIL, Verdict.FAIL), old("b", Verdict.FAIL, Verdict.PASS))
    assert [(c.key, c.a, c.b) for c in found.verdicts] == [("arm try #2", "fail", "pass")]
    both = old("a", Verdict.FAIL, Verdict.FAIL)
    keys = [change.key for change in diff(both, replace(both, arms=both.arms[:1])).environment]
    assert keys == ["arm try #2.offloads.vm1/eth0.tap.tso"]


def test_a_partial_run_differs_from_a_whole_one() -> None:
    failed = replace(SSH, verdict=Verdict.FAIL)
    found = diff(run(failed), run(failed, run_id="b", partial=True))
    assert [(c.a, c.b) for c in found.verdicts] == [("fail", "fail (partial)")]


def test_environment_changes_are_named_by_key() -> None:
    other = replace(
        ENVIRONMENT,
        accelerator="kvm",
        images={"micro": "d"},
        offloads={"vm1/eth0": {"tap": {"tso": False}}},
    )
    found = diff(run(SSH), run(SSH, run_id="b", environment=other, offload=False))
    assert {(c.key, c.a, c.b) for c in found.environment} == {
        ("accelerator", "tcg", "kvm"),
        ("images.micro", None, "d"),
        ("offloads.vm1/eth0.tap.tso", "on", "off"),
        ("arm raw.offloads.vm1/eth0.guest.tx", "on", "off"),
    }
    assert found.same_verdicts


def test_a_difference_is_plain_data() -> None:
    found = diff(run(SSH), run(SYN, run_id="b", offload=False))
    data = json.loads(json.dumps(found.to_json()))
    assert data["checks"][0]["a"]["verdict"] == "pass"
    assert data["checks"][0]["b"] is None
    for table in difference_tables(found):
        assert all(len(row) == len(table.columns) for row in table.rows)
