"""Files and folders that nobody else can hold, foresee, write to or put in labctl's way."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from labctl.errors import DeadlineError, HostError
from labctl.sandbox import atomic, lock, paths, trusted
from labctl.sandbox.deadline import Deadline

# --- locks --------------------------------------------------------------------------------------


def test_a_lock_that_all_could_hold_is_made_private(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    file.write_text("kept")
    file.chmod(0o644)
    with lock.held(file, Deadline(5, "waiting")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == "kept"
    with lock.held(tmp_path / "new", Deadline(5, "waiting")):
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_who_waits_for_a_lock_is_told_who_holds_it(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            pytest.raises(DeadlineError, match=f"process {os.getpid()} of user .* holds {file}"),
            lock.held(file, Deadline(0.05, "waiting for another labctl")),
        ):
            pytest.fail("it was free")


def test_a_link_or_a_folder_in_the_place_of_a_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe"):
        with pytest.raises((OSError, HostError)), lock.held(tmp_path / name, Deadline(1, "x")):
            pytest.fail(f"{name} was locked")


# --- writing ------------------------------------------------------------------------------------


def test_a_link_that_lies_in_wait_is_not_written_through(tmp_path: Path) -> None:
    """In a folder of others: a name made of a process's number can be foreseen."""
    precious = tmp_path / "precious"
    precious.write_text("kept")
    for name in (f".report.html.{os.getpid()}", ".report.html", ".report.html.part"):
        (tmp_path / name).symlink_to(precious)
    atomic.write(tmp_path / "report.html", "the page")
    assert (tmp_path / "report.html").read_text() == "the page"
    (tmp_path / "link").symlink_to(precious)
    atomic.write(tmp_path / "link", "instead of the link")
    assert precious.read_text() == "kept"
    assert not (tmp_path / "link").is_symlink()


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    """As root `--html /dev/null` would take the device away from the whole host."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is there, and no file"):
        atomic.write(tmp_path / "pipe", "a page")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert [one.name for one in tmp_path.iterdir()] == ["pipe"]


def test_a_file_that_could_not_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")

    def half() -> None:
        with atomic.writing(tmp_path / "file") as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "before"


def test_modes_are_those_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic.write(tmp_path / "private", "key")
        atomic.write(tmp_path / "public", "page", atomic.public())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o640


# --- whose a folder is --------------------------------------------------------------------------


def test_a_folder_of_the_users_own_may_be_used(tmp_path: Path) -> None:
    assert trusted.check_private(tmp_path / "not" / "yet", "X") == tmp_path / "not" / "yet"
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    (tmp_path / "sticky" / "own").mkdir(mode=0o700)
    trusted.check_private(tmp_path / "sticky" / "own", "X")
    (tmp_path / "link").symlink_to(tmp_path / "sticky" / "own")
    trusted.check_private(tmp_path / "link", "X")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o772])
@pytest.mark.parametrize("by", ["itself", "its parent", "a link's target"])
def test_where_others_can_write_nothing_is_kept(tmp_path: Path, mode: int, by: str) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "link").symlink_to(inner)
    (outer if by == "its parent" else inner).chmod(mode)
    place = tmp_path / "link" if by == "a link's target" else inner
    if by == "its parent" and mode & stat.S_ISVTX:
        trusted.check_private(place, "X_HOME")
        return
    with pytest.raises(HostError, match="others can write to") as told:
        trusted.check_private(place, "X_HOME")
    assert "X_HOME" in told.value.hint


@pytest.mark.parametrize("what", ["a folder above", "a link on the way"])
def test_what_belongs_to_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    (tmp_path / "theirs" / "labctl").mkdir(parents=True)
    (tmp_path / "link").symlink_to("theirs")
    theirs = tmp_path / ("theirs" if what == "a folder above" else "link")
    look = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        seen = list(look(path))
        if path == theirs:
            seen[stat.ST_UID] = 12345
        return os.stat_result(seen)

    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(HostError, match="belongs to user 12345"):
        trusted.check_private(theirs / "labctl", "X")


def test_each_link_of_a_chain_is_looked_at(tmp_path: Path) -> None:
    """Who can replace one in the middle decides where the way ends."""
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "middle").symlink_to("../own")
    (tmp_path / "first").symlink_to("open/middle")
    trusted.check_private(tmp_path / "first" / "labctl", "X")
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(HostError, match=f"others can write to {tmp_path}/open "):
        trusted.check_private(tmp_path / "first" / "labctl", "X")


def test_links_that_lead_in_a_circle_hold_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    trusted.check_private(tmp_path / "a" / "labctl", "X")


def test_an_access_list_may_let_others_write_through_the_users_own_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trusted, "_is_own", lambda _group: True)
    tmp_path.chmod(0o770)
    trusted.check_private(tmp_path, "X")
    # acl(5): user::rwx, user:65534:rwx, group::---, mask::rwx, other::---
    entries = [(1, 7, -1), (2, 7, 65534), (4, 0, -1), (16, 7, -1), (32, 0, -1)]
    known = b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(tmp_path, "system.posix_acl_access", struct.pack("<I", 2) + known)
    with pytest.raises(HostError, match="others can write to"):
        trusted.check_private(tmp_path, "X")


@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        ("XDG_CONFIG_HOME", paths.config),
        ("XDG_CACHE_HOME", paths.cache),
        ("XDG_STATE_HOME", paths.state),
        ("LABCTL_RUNTIME_DIR", paths.runtime),
    ],
)
def test_each_folder_is_looked_at_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, folder: Callable[[], Path]
) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    assert folder() == tmp_path / "labctl"
    (tmp_path / "labctl").mkdir(exist_ok=True)
    (tmp_path / "labctl").chmod(0o777)
    with pytest.raises(HostError, match="others can write to") as told:
        folder()
    assert variable in told.value.hint
