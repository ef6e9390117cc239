"""Builds that the archive or the disk refuses: each is told as what it is, and leaves nothing."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from debian_archive import PACKAGES, Archive, left_behind

from labctl import images
from labctl.errors import HostError, LabctlError, UsageError
from labctl.images import cache, mirror, recipe
from labctl.images.tree import Tree
from labctl.sandbox.init import MARK
from labctl.sandbox.process import Result

pytest_plugins = ["debian_archive"]


def test_a_package_is_read_no_further_than_its_pinned_size(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror, or who stands before it, may send without end."""
    archive.write()
    sent = 0

    def endless(*_: object) -> Generator[bytes]:
        nonlocal sent
        while sent < 1 << 30:
            sent += 1 << 16
            yield bytes(1 << 16)

    monkeypatch.setattr(mirror, "_blocks", endless)
    with pytest.raises(LabctlError, match="is not what the lock pins"):
        images.get("mine")
    assert sent < 1 << 22
    assert left_behind() == []


def test_a_package_with_another_sum_is_named_and_not_kept(archive: Archive) -> None:
    archive.write()
    (archive.pool / "tools.deb").write_bytes(PACKAGES["tools"][:-1] + b"!")
    with pytest.raises(LabctlError, match=r"tools 1\.2-3 is not what the lock pins") as caught:
        images.get("mine")
    assert "labctl image lock mine" in caught.value.hint
    assert "LABCTL_DEBIAN_MIRROR" in caught.value.hint
    kept = {path.name for path in cache.packages().iterdir()} - {MARK}
    assert kept <= {f"{hashlib.sha256(PACKAGES['linux-image-test']).hexdigest()}.deb"}
    assert left_behind() == []


def test_a_package_that_is_gone_is_named(archive: Archive) -> None:
    archive.write()
    (archive.pool / "tools.deb").unlink()
    with pytest.raises(LabctlError, match=r"tools 1\.2-3 is gone from the archive \(HTTP 404\)"):
        images.get("mine")


def test_a_mirror_that_does_not_answer_is_one_clear_line(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write()
    monkeypatch.setenv("LABCTL_DEBIAN_MIRROR", "http://127.0.0.1:1")
    with pytest.raises(LabctlError, match=r"1\.2-3 could not be fetched: .*refused"):
        images.get("mine")


def test_a_mirror_that_is_no_uri_is_refused(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write()
    monkeypatch.setenv("LABCTL_DEBIAN_MIRROR", "ftp.example")
    with pytest.raises(UsageError, match="LABCTL_DEBIAN_MIRROR"):
        images.get("mine")


class Full:
    """A file of a disk that is full; it fails like write(2), which names no file."""

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_while_fetching_is_no_fault_of_the_archive(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write()
    real = os.fdopen

    def fdopen(handle: int, mode: str = "r", *more: Any, **words: Any) -> Any:
        if mode != "wb":
            return real(handle, mode, *more, **words)
        os.close(handle)
        return Full()

    monkeypatch.setattr(os, "fdopen", fdopen)
    with pytest.raises(HostError) as caught:
        images.get("mine")
    assert caught.value.message == f"{cache.packages()}: No space left on device"
    assert "lock" not in caught.value.hint
    assert left_behind() == []
    assert [file.name for file in cache.packages().iterdir()] == [MARK]


def test_a_disk_that_fills_while_building_is_no_fault_of_labctl(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Tree, "write_cpio", full)
    with pytest.raises(HostError, match="No space left") as caught:
        images.get("mine")
    assert caught.value.message.startswith(f"{cache.root()}: ")
    assert left_behind() == []


def test_a_disk_that_is_full_while_locking_is_told_and_leaves_the_lock_as_it_was(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = archive.write()
    before = (folder / "lock.yaml").read_text()
    pinned = recipe.load("mine").lock()
    monkeypatch.setattr(mirror, "pin", lambda *_, **__: pinned)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(HostError, match=r"lock\.yaml: No space left") as caught:
        images.lock("mine")
    assert "free some space" in caught.value.hint
    assert (folder / "lock.yaml").read_text() == before
    assert not (folder / "lock.part").exists()


def test_a_full_folder_of_temporary_files_is_no_fault_of_the_archive(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write()
    said = "E: Write error - write (28: No space left on device)"
    monkeypatch.setattr(mirror, "run", lambda *_, **__: Result(("apt-get",), 100, "", said))
    (tmp_path / "keys").touch()
    monkeypatch.setattr(mirror, "KEYRING", tmp_path / "keys")
    with pytest.raises(HostError, match=r"/\.apt-.*: No space left"):
        images.lock("mine")


def test_a_cache_that_cannot_be_made_is_told(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(HostError, match="cannot write to the cache") as caught:
        images.get("mine")
    assert "XDG_CACHE_HOME" in caught.value.hint
