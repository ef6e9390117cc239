"""Words about records: shown, compared, as tables that can be copied from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_words import Labctl
from rich.console import Console
from test_results_records import CHECKS, recorded

from labctl.cli import console, options
from labctl.results import Recorder, Run, list_runs, list_table

pytest_plugins = ["cli_words"]
pytestmark = pytest.mark.usefixtures("runtime")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    monkeypatch.setenv("LABCTL_RESULTS", str(tmp_path / "results"))
    return [recorded(tmp_path / "results", CHECKS[:1]), recorded(tmp_path / "results", CHECKS[:2])]


@pytest.mark.parametrize(
    "words", [("show", "--json"), ("--json", "show"), ("--json", "show", "last")]
)
def test_json_is_heard_before_and_behind_the_word(
    words: tuple[str, ...], labctl: Labctl, runs: list[Run]
) -> None:
    assert json.loads(labctl("results", *words).out)["id"] == runs[-1].id


def test_diff_last_compares_the_last_run_with_the_one_before(
    labctl: Labctl, runs: list[Run]
) -> None:
    told = labctl("results", "--json", "diff", "last")
    assert told.code == 1
    assert (json.loads(told.out)["a"], json.loads(told.out)["b"]) == (runs[0].id, runs[1].id)


def test_diff_last_takes_the_run_before_of_the_same_experiment(
    labctl: Labctl, runs: list[Run], tmp_path: Path
) -> None:
    from dataclasses import replace

    with Recorder.create("other", tmp_path / "results") as recorder:
        recorder.finish(replace(runs[0], id=recorder.id, experiment="other"))
    told = labctl("results", "diff", "last")
    assert (told.code, "no run of other is before" in told.err) == (2, True)


@pytest.mark.parametrize("words", [("last", "last"), ("last~0", "last")])
def test_a_run_is_not_compared_with_itself(
    words: tuple[str, str], labctl: Labctl, runs: list[Run]
) -> None:
    told = labctl("results", "diff", *words)
    assert told.code == 2
    assert f"are one run, {runs[-1].id}" in told.err


def test_the_id_of_a_run_is_whole_on_a_narrow_terminal(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setattr(console.Page, "width", property(lambda _: 90, lambda *_: None))
    table = list_table(list_runs(tmp_path / "results"))
    options.print_table(table.columns, table.rows, table.title)
    said = capsys.readouterr().out
    assert all(run.id in said for run in runs)


# --- runs of other machines -----------------------------------------------------------------------


def test_runs_of_two_machines_are_compared_by_their_folders(
    labctl: Labctl, runs: list[Run], tmp_path: Path
) -> None:
    here, there = (tmp_path / "results" / one.id for one in runs)
    there = there.rename(tmp_path / "from bob")
    told = labctl("results", "--json", "diff", str(here), str(there))
    assert told.code == 1
    assert (json.loads(told.out)["a"], json.loads(told.out)["b"]) == (runs[0].id, runs[1].id)
    assert json.loads(labctl("results", "show", str(there), "--json").out)["id"] == runs[1].id
    file = str(there / "result.json")
    assert json.loads(labctl("results", "show", file, "--json").out)["id"] == runs[1].id


def test_a_report_is_made_of_a_folder_of_any_name(
    labctl: Labctl, runs: list[Run], tmp_path: Path
) -> None:
    there = (tmp_path / "results" / runs[1].id).rename(tmp_path / "from bob")
    page = tmp_path / "page.html"
    told = labctl("report", str(there), "-o", str(page), "--json")
    assert (told.code, json.loads(told.out)["run"]) == (0, runs[1].id)
    assert page.exists()


def test_a_folder_that_holds_no_run_is_told(
    labctl: Labctl, runs: list[Run], tmp_path: Path
) -> None:
    assert runs
    (tmp_path / "empty").mkdir()
    told = labctl("results", "show", str(tmp_path / "empty"))
    assert told.code == 2
    assert "holds no run" in told.err


def test_a_run_goes_from_one_folder_of_records_to_another_as_a_file(
    labctl: Labctl, runs: list[Run], tmp_path: Path
) -> None:
    file = str(tmp_path / "run.tar")
    assert labctl("results", "export", "last", file).code == 0
    other = str(tmp_path / "other")
    told = labctl("results", "--results", other, "import", file, "--json")
    assert (told.code, json.loads(told.out)) == (0, {"run": runs[1].id, "new": True})
    told = labctl("results", "--results", other, "show", "--json")
    assert json.loads(told.out)["id"] == runs[1].id
    told = labctl("results", "--results", other, "import", str(tmp_path / "run.tar"))
    assert "is here already" in told.out
