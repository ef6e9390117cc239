"""Folders of short-lived sandboxes: nobody's is left, and nobody's is taken away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from stand_in import ended, standing

from labctl.errors import UsageError
from labctl.lab import state, teardown
from labctl.sandbox import namespaces, owned, paths, scratch
from labctl.sandbox.init import MARK
from labctl.sandbox.namespaces import IDENTITY

pytest_plugins = ["stand_in"]

MAKER = """
import sys
from labctl.sandbox import scratch
with scratch.folder() as folder:
    (folder / "something").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(tmp_path))
    return paths.runtime()


def contents(runtime: Path) -> list[str]:
    """Return what is in the runtime folder, but for its own mark."""
    return [entry.name for entry in runtime.iterdir() if entry.name != MARK]


def test_a_folder_goes_with_its_block(runtime: Path) -> None:
    with scratch.folder() as folder:
        (folder / "w").mkdir()
        (folder / "w" / "file").touch()
        assert contents(runtime) == [folder.name]
    assert contents(runtime) == []


def test_what_a_killed_maker_left_is_removed_by_the_next_but_not_while_it_lives(
    runtime: Path,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as maker:
        assert maker.stdout
        folder = Path(maker.stdout.readline().strip())
        scratch.sweep()
        assert (folder / "something").exists()
        maker.kill()
        maker.wait()
    assert folder.exists()
    scratch.sweep()
    assert contents(runtime) == []


def left_by_a_killed_maker(runtime: Path) -> Path:
    folder = runtime / f"{scratch.PREFIX}1"
    owned.make(folder)
    (folder / scratch.WORLD).mkdir()
    return folder


def test_making_a_lab_sweeps(runtime: Path) -> None:
    left_by_a_killed_maker(runtime)
    with state.creating(runtime / "lab"):
        assert contents(runtime) == [".lock"]


def test_what_labctl_did_not_make_stays(runtime: Path) -> None:
    """As where LABCTL_RUNTIME_DIR holds a checkout that is called labctl."""
    for name in (".git", ".venv", f"{scratch.PREFIX}x", ".kvm-1", "labctl", "dead"):
        (runtime / name / "w").mkdir(parents=True)
        (runtime / name / "file").touch()
    (runtime / "dead" / IDENTITY).write_text(json.dumps(asdict(ended(os.getpid()))))
    (runtime / "README.md").write_text("precious")
    (runtime / ".lock").write_text("precious")
    before = sorted(runtime.rglob("*"))
    scratch.sweep()
    with state.creating(runtime / "lab"), scratch.folder():
        pass
    namespaces.end(runtime / "dead")
    teardown.end(runtime / "dead")
    assert state.known() == []
    assert sorted(runtime.rglob("*")) == before
    assert (runtime / ".lock").read_text() == "precious"


def test_a_lab_is_not_made_in_the_place_of_something_else(runtime: Path) -> None:
    (runtime / "docs").mkdir()
    (runtime / "docs" / "file").touch()
    with (
        pytest.raises(UsageError, match="labctl did not make it") as told,
        state.creating(runtime / "docs"),
    ):
        pytest.fail("it was made")
    assert "--name" in told.value.hint
    assert (runtime / "docs" / "file").exists()


@pytest.mark.usefixtures("any_process_is_an_init")
def test_a_folder_whose_sandbox_still_runs_stays(runtime: Path) -> None:
    folder = left_by_a_killed_maker(runtime)
    (folder / scratch.WORLD / IDENTITY).write_text(json.dumps(asdict(standing(os.getpid()))))
    scratch.sweep()
    assert folder.is_dir()
    (folder / scratch.WORLD / IDENTITY).write_text(json.dumps(asdict(ended(os.getpid()))))
    scratch.sweep()
    assert contents(runtime) == []


def test_a_folder_swept_before_it_was_locked_is_made_again(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = owned.make
    made: list[Path] = []

    def make_late(directory: Path, mode: int = 0o700) -> None:
        make(directory, mode)
        made.append(directory)
        if len(made) == 1:
            scratch.sweep()

    monkeypatch.setattr(owned, "make", make_late)
    with scratch.folder() as folder:
        assert len(made) == 2
        scratch.sweep()
        assert contents(runtime) == [folder.name]


def test_links_and_files_are_left_alone(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    owned.make(tmp_path / f"{scratch.PREFIX}1")
    (runtime / f"{scratch.PREFIX}1").symlink_to(tmp_path / f"{scratch.PREFIX}1")
    (runtime / f"{scratch.PREFIX}2").symlink_to(tmp_path / "precious")
    (runtime / ".lock").touch()
    scratch.sweep()
    assert (tmp_path / "precious" / "file").exists()
    assert (tmp_path / f"{scratch.PREFIX}1").exists()
    assert (runtime / ".lock").exists()
