"""Ending a sandbox removes what was its own, and nothing that has taken its place meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from stand_in import ended, standing

from labctl.sandbox import init, namespaces, owned
from labctl.sandbox.namespaces import IDENTITY, Identity, Namespaces

pytest_plugins = ["stand_in"]
pytestmark = pytest.mark.usefixtures("any_process_is_an_init")


@pytest.fixture
def first() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for a sandbox's PID 1."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def identity_of(process: subprocess.Popen[bytes]) -> Identity:
    return standing(process.pid)


def write(folder: Path, identity: Identity) -> None:
    owned.make(folder)
    (folder / IDENTITY).write_text(json.dumps(asdict(identity)))


@pytest.mark.parametrize("content", [True, False])
def test_a_directory_made_when_the_old_one_had_gone_stays(
    tmp_path: Path,
    first: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    content: bool,
) -> None:
    folder = tmp_path / "lab"
    write(folder, identity_of(first))
    kept = tmp_path / "kept"  # so that the new directory cannot get the old one's inode

    def asked(_handle: int, _number: int) -> None:
        """What PID 1 does when it is asked to end, and then an `up` that has waited for it."""
        (folder / IDENTITY).unlink()
        folder.rename(kept)
        first.kill()
        folder.mkdir()
        if content:
            (folder / "init.log").touch()

    monkeypatch.setattr(signal, "pidfd_send_signal", asked)
    namespaces.end(folder)
    assert folder.is_dir()
    assert (folder / "init.log").exists() == content


def test_a_sandbox_does_not_end_the_one_that_has_its_name_by_now(
    tmp_path: Path, first: subprocess.Popen[bytes]
) -> None:
    folder = tmp_path / "lab"
    write(folder, identity_of(first))
    earlier = Namespaces(folder, ended(os.getpid()))
    earlier.end()
    assert first.poll() is None
    assert (folder / IDENTITY).exists()
    Namespaces(folder, identity_of(first)).end()
    assert not folder.exists()
    assert first.wait() == -signal.SIGTERM


def test_everything_in_a_directory_goes_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    owned.make(folder)
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "file").touch()
    os.mkfifo(folder / "pipe")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (folder / "link").symlink_to(tmp_path / "precious")
    namespaces.end(folder)
    assert not folder.exists()
    assert (tmp_path / "precious" / "file").exists()
    namespaces.end(folder)  # twice is no error


def test_a_link_in_place_of_a_labs_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / "lab").symlink_to(tmp_path / "precious")
    namespaces.end(tmp_path / "lab")
    assert (tmp_path / "precious" / "file").exists()


def test_pid_1_removes_its_own_directory_and_no_later_one(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    parent = os.open(tmp_path, os.O_PATH)
    inside = os.open(folder, os.O_RDONLY)
    try:
        shutil.rmtree(folder)
        folder.mkdir()
        init.remove("lab", parent, inside)
        assert folder.is_dir()
    finally:
        os.close(inside)
        os.close(parent)


def test_a_signal_right_after_its_folder_is_there_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    make = owned.make

    def interrupted(folder: Path) -> None:
        make(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(owned, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Namespaces.create(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()
    make(tmp_path / "lab")
    monkeypatch.setattr(owned, "make", make)
    with pytest.raises(FileExistsError):
        Namespaces.create(tmp_path / "lab")
    assert owned.is_made(tmp_path / "lab"), "it was there before, and is somebody else's"
