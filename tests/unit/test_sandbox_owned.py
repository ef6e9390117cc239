"""Only what labctl made is ever removed, and a kill at any moment leaves what it knows for its."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from labctl.errors import HostError
from labctl.sandbox import owned
from labctl.sandbox.init import MARK, remove


def killed(place: Path, deed: Callable[[Path], object], moment: int) -> bool:
    """Do something in a process that is killed before its system call number `moment`; say if so.

    Python tells of each (PEP 578).
    """
    child = os.fork()
    if child == 0:
        calls = 0

        def count(event: str, _arguments: object) -> None:
            nonlocal calls
            if event.split(".")[0] in ("os", "open", "shutil", "fcntl"):
                calls += 1
                if calls == moment + 1:  # the kill is told of too
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            deed(place)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def test_a_folder_that_was_made_is_removed_with_all_that_is_in_it(tmp_path: Path) -> None:
    place = tmp_path / "one"
    owned.make(place)
    (place / "inner").mkdir()
    (place / "inner" / "file").touch()
    assert place.stat().st_mode & 0o777 == 0o700
    assert owned.is_made(place)
    assert owned.remove(place)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["nothing", "file", "mark without text", "another's mark"])
def test_a_folder_without_the_mark_stays(tmp_path: Path, content: str) -> None:
    place = tmp_path / "one"
    place.mkdir()
    if content == "file":
        (place / "file").touch()
    if content == "mark without text":
        (place / MARK).touch()
    if content == "another's mark":
        (place / MARK).write_text("labctl has made this folder")
    assert not owned.is_made(place)
    assert not owned.remove(place)
    assert place.is_dir()


def test_a_copy_of_a_mark_proves_nothing(tmp_path: Path) -> None:
    owned.make(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "copy", copy_function=shutil.copy2)
    assert not owned.remove(tmp_path / "copy")
    # Nor does one at the same path, in another folder.
    (tmp_path / "one").rename(tmp_path / "two")
    shutil.copytree(tmp_path / "two", tmp_path / "one", copy_function=shutil.copy2)
    assert not owned.remove(tmp_path / "one")
    assert not owned.remove(tmp_path / "two")  # it is where labctl did not put it
    assert (tmp_path / "one").is_dir()
    assert (tmp_path / "two").is_dir()


def test_no_link_is_followed(tmp_path: Path) -> None:
    owned.make(tmp_path / "one")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    assert not owned.is_made(tmp_path / "link")
    assert not owned.remove(tmp_path / "link")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (tmp_path / "one" / "link").symlink_to(precious)
    (precious / MARK).symlink_to(tmp_path / "one" / MARK)
    assert not owned.remove(precious)
    assert owned.remove(tmp_path / "one")
    assert (precious / "file").exists()


def test_what_is_there_is_not_taken(tmp_path: Path) -> None:
    for name in ("full", "made"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "made").rmdir()
    owned.make(tmp_path / "made")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("full", "made", "file", "link"):
        with pytest.raises(FileExistsError):
            owned.make(tmp_path / name)
    (tmp_path / "empty").mkdir()
    owned.make(tmp_path / "empty")
    assert owned.is_made(tmp_path / "empty")


def test_something_else_in_the_place_of_staging_is_left_alone_and_named(tmp_path: Path) -> None:
    (tmp_path / owned.STAGING).mkdir()
    (tmp_path / owned.STAGING / "file").touch()
    with pytest.raises(HostError, match="labctl did not make it"):
        owned.make(tmp_path / "one")
    assert (tmp_path / owned.STAGING / "file").exists()


@pytest.mark.parametrize("deed", [owned.make, owned.remove])
def test_a_kill_at_any_moment_leaves_nothing_or_what_is_known(
    tmp_path: Path, deed: Callable[[Path], object]
) -> None:
    for moment in range(200):
        place = tmp_path / "one"
        if deed is owned.remove:
            owned.make(place)
            (place / "inner").mkdir()
            (place / "inner" / "file").touch()
        was_killed = killed(place, deed, moment)
        if place.exists():
            assert owned.is_made(place), f"at moment {moment}"
        # What lies elsewhere goes with the next that is made, and nobody has to know of it.
        owned.make(tmp_path / "next")
        owned.remove(tmp_path / "next")
        owned.remove(place)
        assert list(tmp_path.iterdir()) == [], f"at moment {moment}"
        if not was_killed:
            assert moment > 10
            return
    pytest.fail("it never got to its end")


def test_a_removal_that_is_broken_off_leaves_the_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first process of a sandbox removes: it has handles, and may be killed."""
    place = tmp_path / "one"
    owned.make(place)
    (place / "inner").mkdir()
    parent, inside = os.open(tmp_path, os.O_PATH), os.open(place, os.O_RDONLY)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    remove("one", parent, inside)
    assert owned.is_made(place)
    monkeypatch.undo()
    remove("one", parent, inside)
    assert not place.exists()
    os.close(parent)
    os.close(inside)


def test_an_empty_folder_is_claimed_and_a_full_one_is_not(tmp_path: Path) -> None:
    assert owned.claim(tmp_path / "new" / "one")
    assert owned.claim(tmp_path / "new" / "one")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert not owned.claim(tmp_path / "full")
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / MARK).touch()
    assert owned.claim(tmp_path / "killed")
    (tmp_path / "file").touch()
    assert not owned.claim(tmp_path / "file")


def test_a_folder_of_somebody_elses_is_not_labctls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned.make(tmp_path / "one")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert not owned.is_made(tmp_path / "one")
    assert not owned.remove(tmp_path / "one")
    assert not owned.claim(tmp_path / "one")
