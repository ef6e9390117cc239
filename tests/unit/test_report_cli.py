"""The verb `report`: where the page goes, and what it says when there is none to make."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from labctl.cli.report import report
from labctl.errors import LabctlError, UsageError
from labctl.results import Recorder
from report_records import record


def call(*words: str | Path) -> str:
    result = CliRunner().invoke(report, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_page_lies_beside_the_record(tmp_path: Path) -> None:
    directory = record(tmp_path)
    assert call("last", "--results", tmp_path).strip() == str(directory / "report.html")
    assert "<h1>SSH hangs" in (directory / "report.html").read_text()
    assert not list(directory.glob(".report*"))


def test_the_page_goes_where_it_is_told(tmp_path: Path) -> None:
    directory = record(tmp_path)
    target = tmp_path / "elsewhere.html"
    told = json.loads(call(directory.name, "--results", tmp_path, "-o", target, "--json"))
    assert told == {"run": directory.name, "verdict": "pass", "path": str(target)}
    assert target.read_text().endswith("</html>\n")
    assert not (directory / "report.html").exists()


def test_a_run_is_named_by_its_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = record(tmp_path / "brought" / "from-elsewhere")
    assert call(directory).strip() == str(directory / "report.html")
    monkeypatch.chdir(directory)
    assert call(".").strip() == str(directory / "report.html")


def test_an_older_page_is_replaced_whole(tmp_path: Path) -> None:
    directory = record(tmp_path)
    (directory / "report.html").write_text("old" * 1_000_000)
    call("last", "--results", tmp_path)
    assert "old" * 3 not in (directory / "report.html").read_text()


def test_what_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no results"):
        call("last", "--results", tmp_path)
    with Recorder.create("early", tmp_path):
        pass
    with pytest.raises(LabctlError, match="interrupted"):
        call("last", "--results", tmp_path)
    record(tmp_path)
    with pytest.raises(UsageError, match="no run called"):
        call("nonsense", "--results", tmp_path)
    with pytest.raises(UsageError, match="is a folder"):
        call("last", "--results", tmp_path, "-o", tmp_path)
    with pytest.raises(LabctlError, match="cannot be written"):
        call("last", "--results", tmp_path, "-o", tmp_path / "none" / "x.html")


@pytest.mark.parametrize("to", ["file", "pipe"])
def test_a_link_or_a_device_does_not_give_way_to_the_page(tmp_path: Path, to: str) -> None:
    """As root `-o /dev/stdout` would take the link, and `-o /dev/null` the device, from all."""
    record(tmp_path)
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(to)
    for name in ("link", "pipe"):
        with pytest.raises(UsageError, match="is there, and no file"):
            call("last", "--results", tmp_path, "-o", tmp_path / name)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "file").read_text() == "kept"


def test_the_browser_is_opened_on_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = record(tmp_path)
    opened: list[str] = []

    def opens(uri: str) -> bool:
        opened.append(uri)
        return len(opened) == 1

    monkeypatch.setattr("webbrowser.open", opens)
    call("last", "--results", tmp_path, "--open")
    assert opened == [(directory / "report.html").as_uri()]
    with pytest.raises(LabctlError, match="no browser"):
        call("last", "--results", tmp_path, "--open")
