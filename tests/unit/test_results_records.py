"""Records on disk: written whole, read back, and never a pass by accident."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.errors import LabctlError, UsageError
from labctl.results import (
    ArmResult,
    Check,
    Environment,
    Recorder,
    Run,
    RunState,
    Verdict,
    find,
    host_environment,
    junit,
    list_runs,
    list_table,
    load,
    recorder,
    results_root,
    run_tables,
    store,
)

OFFLOADS = {"vm1/eth0": {"guest": {"tx": True, "tso": False}, "device": {"csum": True}}}
CHECKS = (
    Check("ssh", Verdict.PASS, "works", "took 0.2 s", ("SYN partial needs_csum",), None, 0.2),
    Check("syn state", Verdict.FAIL, "partial", "valid", (), "vm1-eth0", 0.0),
    Check("udp", Verdict.SKIP, "partial", "no UDP sent"),
    Check("counters", Verdict.ERROR, "no growth", "vm2 did not answer"),
)


def make(run_id: str, checks: tuple[Check, ...] = CHECKS[:1], **rest: Any) -> Run:
    arms = [ArmResult.judge("raw/ipv4", "metadata lost", checks, offloads=OFFLOADS, seconds=2.5)]
    environment = host_environment(accelerator="tcg", images={"micro": "abc"}, offloads=OFFLOADS)
    return Run.judge(
        run_id,
        "router-hop",
        "the metadata decides",
        arms,
        environment=environment,
        started="2026-11-22T04:00:00.000Z",
        timings={"up": 8.25},
        **rest,
    )


def recorded(root: Path, checks: tuple[Check, ...] = CHECKS[:1], **rest: Any) -> Run:
    with Recorder.create("router-hop", root) as recorder:
        run = make(recorder.id, checks, **rest)
        recorder.finish(run)
    return run


def test_a_finished_run_reads_back_equal(tmp_path: Path) -> None:
    run = recorded(tmp_path, CHECKS, story="what happened\n", notes=("cut: vm2",))
    assert load(run.id, tmp_path) == run
    (summary,) = list_runs(tmp_path)
    assert (summary.state, summary.verdict) == (RunState.FINISHED, Verdict.ERROR)
    files = {path.name for path in (tmp_path / run.id).iterdir()}
    assert files == {"result.json", "junit.xml", "captures", "console"}


def test_the_newest_run_comes_first_and_is_last(tmp_path: Path) -> None:
    for stamp in ("20261101T000000.000Z", "20261103T000000.000Z", "20261102T000000.000Z"):
        (tmp_path / f"{stamp}-bridged-0000").mkdir()
    assert [summary.started[8:10] for summary in list_runs(tmp_path)] == ["03", "02", "01"]
    assert find("last", tmp_path).started == "2026-11-03T00:00:00.000Z"
    assert find("last~2", tmp_path).started == "2026-11-01T00:00:00.000Z"
    with pytest.raises(UsageError, match="only 3"):
        find("last~3", tmp_path)


def test_a_running_run_is_told_from_an_interrupted_one(tmp_path: Path) -> None:
    with Recorder.create("bridged", tmp_path) as recorder:
        assert find("last", tmp_path).state is RunState.RUNNING
        with pytest.raises(LabctlError, match="still running"):
            load("last", tmp_path)
    assert (recorder.path / "running").exists()
    assert find("last", tmp_path).state is RunState.INTERRUPTED
    assert find("last", tmp_path).verdict is None
    with pytest.raises(LabctlError, match="interrupted"):
        load("last", tmp_path)


def test_nobody_else_can_hold_the_lock_of_a_run(tmp_path: Path) -> None:
    """It would keep a run from its start, and one that was killed would go on for ever."""
    before = os.umask(0)
    try:
        with Recorder.create("bridged", tmp_path) as recorder:
            assert (recorder.path / "running").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_another_users_run_that_goes_on_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with Recorder.create("bridged", tmp_path) as recorder:
        monkeypatch.setattr(store, "open_file", lambda path: refuse(path))
        assert store._is_locked(recorder.path / "running")
    assert not store._is_locked(recorder.path / "running")


def test_a_killed_process_leaves_an_interrupted_run(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from labctl.results import Recorder
recorder = Recorder.create("bridged", Path(sys.argv[1]))
print(recorder.id, flush=True)
time.sleep(600)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout
        run_id = child.stdout.readline().strip()
        try:
            assert find(run_id, tmp_path).state is RunState.RUNNING
        finally:
            child.kill()
    assert find(run_id, tmp_path).state is RunState.INTERRUPTED


def test_a_crash_while_writing_leaves_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with Recorder.create("bridged", tmp_path) as recorder:
        monkeypatch.setattr(os, "fsync", crash)
        with pytest.raises(LabctlError, match="No space left"):
            recorder.finish(make(recorder.id))
    assert find("last", tmp_path).state is RunState.INTERRUPTED


def _truncate(text: str) -> str:
    return text[: len(text) // 2]


def _change(**changes: Any) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_truncate, "not JSON"),
        (lambda _text: "", "not JSON"),
        (lambda _text: "[]", "schema_version is None"),
        (lambda _text: "[" * 100_000, "recursion"),
        (_change(schema_version=99), "schema_version is 99"),
        (_change(verdict="splendid"), "verdict"),
        (_change(arms=[]), "its arms do not"),
        (_change(partial=True), "cannot pass"),
        (_change(surprise=1), "surprise"),
        (_change(id="another"), "holds the record of another"),
    ],
)
def test_a_spoilt_record_is_named_and_hides_no_other(
    tmp_path: Path, spoil: Callable[[str], str], problem: str
) -> None:
    good, bad = recorded(tmp_path), recorded(tmp_path)
    file = tmp_path / bad.id / "result.json"
    file.write_text(spoil(file.read_text()))
    listed = {summary.id: summary for summary in list_runs(tmp_path)}
    assert listed[good.id].verdict is Verdict.PASS
    assert listed[bad.id].state is RunState.UNREADABLE
    assert listed[bad.id].verdict is None
    assert problem in listed[bad.id].problem
    with pytest.raises(LabctlError, match=bad.id):
        load(bad.id, tmp_path)


def test_a_record_that_is_no_text_is_unreadable(tmp_path: Path) -> None:
    run = recorded(tmp_path)
    (tmp_path / run.id / "result.json").write_bytes(b"\xff\xfe\x00\x80")
    assert find(run.id, tmp_path).state is RunState.UNREADABLE


def test_runs_are_found_by_a_part_of_their_id(tmp_path: Path) -> None:
    one, two = "20261101T000000.000Z-bridged-00aa", "20261102T000000.000Z-offload-00bb"
    for name in (one, two, "notes"):
        (tmp_path / name).mkdir()
    assert find("20261101", tmp_path).id == one
    assert find("offload", tmp_path).id == two
    assert find("00aa", tmp_path).id == one
    with pytest.raises(UsageError, match="could be 2 runs"):
        find("202611", tmp_path)
    with pytest.raises(UsageError, match="no run called") as missed:
        find("20261101T000000.000Z-brigded-00aa", tmp_path)
    assert one in missed.value.hint
    for name in ("", "notes", "../"):
        with pytest.raises(UsageError):
            find(name, tmp_path)


def test_no_results_yet_is_no_fault_of_a_list(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == []
    with pytest.raises(UsageError, match="no results"):
        load("last", tmp_path / "none")


def test_a_folder_that_cannot_be_written_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LabctlError, match="cannot record") as raised:
        Recorder.create("bridged", tmp_path / "file")
    assert "--results" in raised.value.hint


@pytest.mark.parametrize("name", ["../../etc", "a/b", "my experiment.py", "é", "x" * 300, ""])
def test_any_experiment_name_stays_inside_the_folder(tmp_path: Path, name: str) -> None:
    with Recorder.create(name, tmp_path) as recorder:
        assert recorder.path.parent == tmp_path
        assert find("last", tmp_path).id == recorder.id


def test_a_recorder_records_its_own_run_once(tmp_path: Path) -> None:
    with Recorder.create("bridged", tmp_path) as recorder:
        with pytest.raises(ValueError, match="not recording"):
            recorder.finish(make("another"))
        recorder.finish(make(recorder.id))
        with pytest.raises(ValueError, match="not recording"):
            recorder.finish(make(recorder.id))


def test_the_folder_of_results_is_chosen_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.delenv("LABCTL_RESULTS", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert results_root() == Path("/home/u/.local/state/labctl/results")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert results_root() == Path("/state/labctl/results")
    monkeypatch.setenv("LABCTL_RESULTS", "/named")
    assert results_root() == Path("/named")
    assert results_root(tmp_path) == tmp_path


def _suites(run: Run) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(junit.render(run)).iter("testsuite"))


def test_junit_tells_the_four_verdicts_apart() -> None:
    (suite,) = _suites(make("id", CHECKS))
    found = {case.get("name"): [child.tag for child in case] for case in suite.iter("testcase")}
    assert found == {
        "ssh": [],
        "syn state [vm1-eth0]": ["failure"],
        "udp": ["skipped"],
        "counters": ["error"],
    }
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "1", "errors": "1", "skipped": "1"}
    skipped = suite.find(".//skipped")
    assert skipped is not None
    assert skipped.get("message") == "no UDP sent"
    failure = suite.find(".//failure")
    assert failure is not None
    assert failure.get("message") == "expected partial, observed valid"


def _bad(run: Run) -> int:
    return sum(int(suite.get(key) or 0) for suite in _suites(run) for key in ("failures", "errors"))


def test_junit_never_looks_better_than_the_verdict() -> None:
    died = ArmResult("raw", "the guest died", Verdict.ERROR, CHECKS[:1])
    rest: Any = {"environment": Environment(), "started": ""}
    runs = [
        Run.judge("id", "e", "h", [], **rest),
        Run.judge("id", "e", "h", [died], **rest),
        Run.judge("id", "e", "h", [ArmResult.judge("raw", "", [])], **rest),
        make("id", partial=True),
    ]
    assert [_bad(run) > 0 for run in runs] == [True] * 4
    assert _bad(make("id")) == 0


def test_junit_shows_what_was_given_up_as_skipped_with_the_reason() -> None:
    checks = [CHECKS[0], Check("arm", Verdict.SKIP, "to be tried", "no such NIC here")]
    passed = ArmResult.judge("control", "", CHECKS[:1])
    rest: Any = {"environment": Environment(), "started": "", "given_up": True}
    arm = ArmResult.judge("raw", "", checks, given_up=True)
    suites = _suites(Run.judge("id", "e", "h", [passed, arm], **rest))
    told = [
        (suite.get("name"), case.get("name"), case[0].get("message"))
        for suite in suites
        for case in suite.iter("testcase")
        if len(case)
    ]
    assert told == [
        ("e.raw", "arm", "no such NIC here"),
        ("e.raw", "verdict", "no such NIC here"),
        ("e", "verdict", "no such NIC here"),
    ]


@given(st.text())
def test_junit_is_xml_whatever_was_observed(text: str) -> None:
    check = Check("ssh\x1b[0m", Verdict.FAIL, "\x00", text, (text,), text or None)
    assert len(_suites(make("id\x07", (check,), notes=(text,)))) == 1


def test_tables_hold_as_many_cells_as_columns(tmp_path: Path) -> None:
    run = recorded(tmp_path, CHECKS)
    tables = [list_table(list_runs(tmp_path)), *run_tables(run)]
    assert all(len(row) == len(t.columns) for t in tables for row in t.rows)
    assert tables[0].rows[0][:3] == (run.id, "error", "router-hop")
    assert ("vm1/eth0", "guest", "tx", "tso") in tables[-1].rows


def test_a_run_without_arms_still_shows_its_verdict() -> None:
    run = Run.judge("id", "e", "h", [], environment=Environment(), started="")
    assert run_tables(run)[0].title == "e: error"


def test_an_interrupted_run_is_listed_as_such(tmp_path: Path) -> None:
    Recorder.create("bridged", tmp_path).close()
    assert list_table(list_runs(tmp_path)).rows[0][1] == "interrupted"
    assert list_runs(tmp_path)[0].to_json()["state"] == "interrupted"
    assert recorder.SCHEMA_VERSION == 1


def test_junit_tells_the_environment_once() -> None:
    run = make("20261122T040000.000Z-router-hop-0000", CHECKS)
    two = Run.judge(
        run.id, run.experiment, run.hypothesis,
        [*run.arms, ArmResult.judge("raw/ipv6", "metadata lost", CHECKS[:1])],
        environment=run.environment, started=run.started, timings={},
    )  # fmt: skip
    names = [[one.get("name") for one in suite.iter("property")] for suite in _suites(two)]
    assert [("accelerator" in one, "run" in one) for one in names] == [(True, True), (False, True)]
