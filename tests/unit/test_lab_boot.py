"""The files that guests boot: whole, private, and each of its own content."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from libarchive import file_reader

from labctl.errors import UsageError
from labctl.guests.spec import BOOT
from labctl.images.tree import Entry, Tree
from labctl.lab import boot


def entries(file: Path) -> list[tuple[str, int, bytes]]:
    with file_reader(str(file), format_name="cpio") as archive:
        return [(one.pathname, one.mode, b"".join(one.get_blocks())) for one in archive]


def test_the_configuration_stands_behind_the_image_and_is_roots(tmp_path: Path) -> None:
    tree = Tree()
    tree.add("init", Entry(0o755, b"#!"))
    tree.write_cpio(tmp_path / "image.cpio")
    found = boot.Files(tmp_path).initramfs("vm1", tmp_path / "image.cpio", "hostkey secret\n")
    image = (tmp_path / "image.cpio").read_bytes()
    assert found.read_bytes().startswith(image)
    (tmp_path / "rest").write_bytes(found.read_bytes()[len(image) :])
    assert entries(tmp_path / "rest") == [
        ("labctl.conf", stat.S_IFREG | 0o600, b"hostkey secret\n")
    ]
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    assert stat.S_IMODE(found.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("length", [1, 2, 3, 4, 511])
def test_the_second_archive_begins_at_a_multiple_of_four(tmp_path: Path, length: int) -> None:
    """A user's own initramfs may be compressed, and of any length."""
    (tmp_path / "own").write_bytes(b"\x1f" * length)
    found = boot.Files(tmp_path).initramfs("vm1", tmp_path / "own", "host vm1\n").read_bytes()
    assert found.index(b"070701") % 4 == 0
    assert set(found[length : found.index(b"070701")]) <= {0}


def test_a_kernel_of_the_labs_own_user_is_not_copied(tmp_path: Path) -> None:
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(b"kernel")
    assert boot.Files(tmp_path / "lab").kernel("vm1", kernel) == kernel


def test_two_kernels_of_one_name_are_two_and_for_their_reader_alone(tmp_path: Path) -> None:
    for tree in ("one", "two"):
        (tmp_path / tree / "build").mkdir(parents=True)
        (tmp_path / tree / "build/bzImage").write_text(tree)
        (tmp_path / tree / "build/bzImage").chmod(0o600)
    reader = (os.geteuid(), os.getegid())
    files = boot.Files(tmp_path, reader)
    found = [
        files.kernel(node, tmp_path / tree / "build/bzImage")
        for node, tree in (("vm1", "one"), ("vm2", "two"))
    ]
    assert [kernel.read_text() for kernel in found] == ["one", "two"]
    # Changed and started again, it is the new one.
    (tmp_path / "one/build/bzImage").write_text("newer")
    assert files.kernel("vm1", tmp_path / "one/build/bzImage").read_text() == "newer"
    assert {stat.S_IMODE(kernel.stat().st_mode) for kernel in found} == {0o600}
    assert stat.S_IMODE(found[0].parent.stat().st_mode) == 0o711


def test_a_system_qemus_user_owns_what_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda _file, user, group: given.append((user, group)))
    (tmp_path / "file").write_text("x")
    files = boot.Files(tmp_path, (64055, 106))
    made = [files.kernel("vm1", tmp_path / "file")]
    made += [files.initramfs("vm1", tmp_path / "file", "host vm1\n")]
    assert given == [(64055, 106)] * 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in made} == {0o600}


def test_a_file_that_cannot_be_read_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*missing: No such file"):
        boot.Files(tmp_path).initramfs("vm1", tmp_path / "missing", "")
    assert list((tmp_path / BOOT).iterdir()) == []
