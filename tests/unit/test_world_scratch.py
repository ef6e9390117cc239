"""Folders of short-lived worlds: nobody's is left, and nobody's is taken away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest

from labctl.lab import state
from labctl.world import scratch
from labctl.world.space import IDENTITY, Identity, start_ticks

MAKER = """
import sys
from labctl.world import scratch
with scratch._folder() as folder:
    (folder / "something").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "labctl"
    folder.mkdir()
    return folder


def test_a_folder_goes_with_its_block(runtime: Path) -> None:
    with scratch._folder() as folder:
        (folder / "w").mkdir()
        (folder / "w" / "file").touch()
        assert list(runtime.iterdir()) == [folder]
    assert list(runtime.iterdir()) == []


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
    assert list(runtime.iterdir()) == []


def test_making_a_lab_sweeps(runtime: Path) -> None:
    for name in (".kvm-1", ".dabc", ".s-x"):
        (runtime / name / "w").mkdir(parents=True)
    with state.creating(runtime / "lab"):
        assert [entry.name for entry in runtime.iterdir()] == [".lock"]


def test_a_folder_whose_world_still_runs_stays(runtime: Path) -> None:
    folder = runtime / ".kvm-1" / scratch.WORLD
    folder.mkdir(parents=True)
    alive = Identity(os.getpid(), start_ticks(os.getpid()), user=False)
    (folder / IDENTITY).write_text(json.dumps(asdict(alive)))
    scratch.sweep()
    assert folder.is_dir()
    (folder / IDENTITY).write_text(json.dumps(asdict(Identity(os.getpid(), 1, user=False))))
    scratch.sweep()
    assert list(runtime.iterdir()) == []


def test_a_folder_swept_before_it_was_locked_is_made_again(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, []

    def mkdtemp(prefix: str, dir: Path) -> str:
        made.append(make(prefix=prefix, dir=dir))
        if len(made) == 1:
            scratch.sweep()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with scratch._folder() as folder:
        assert len(made) == 2
        scratch.sweep()
        assert list(runtime.iterdir()) == [folder]


def test_links_and_files_are_left_alone(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (runtime / ".link").symlink_to(tmp_path / "precious")
    (runtime / ".lock").touch()
    scratch.sweep()
    assert (tmp_path / "precious" / "file").exists()
    assert (runtime / ".lock").exists()
