"""The disk of a recipe: the same bytes whoever makes it, whenever, from files in whatever order."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from labctl.errors import LabctlError, UsageError
from labctl.images import closure, disk
from labctl.images.tree import Entry, Tree
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import CommandError

E2FS = "this host has no e2fsprogs"
SIZE = 16 << 20
FILES = {f"etc/d{number % 5}/f{number}": f"{number}\n" * number for number in range(60)}
needs_e2fs = pytest.mark.skipif(not shutil.which("mke2fs"), reason=E2FS)


def staged(folder: Path, seed: int) -> Path:
    """Write the files in an order made by a seed, at whatever time it is."""
    names = list(FILES)
    random.Random(seed).shuffle(names)
    for name in names:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(FILES[name])
        place.chmod(0o644)
    (folder / "bin").symlink_to("usr/bin")
    (folder / 'a "quoted" name').write_text("")
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o1777)
    return folder


def made(base: Path, seed: int) -> bytes:
    base.mkdir()
    target = base / "image"
    with target.open("wb") as file:
        file.truncate(disk.START + SIZE)
    folder = staged(base / "root", seed)
    disk.file_system(folder, target, disk.START, SIZE, Deadline(60, "test"))
    return target.read_bytes()


@needs_e2fs
def test_a_file_system_is_the_same_bytes_whenever_it_is_made(tmp_path: Path) -> None:
    one, two = made(tmp_path / "1", 1), made(tmp_path / "2", 2)
    assert one == two
    assert one[: disk.START] == bytes(disk.START)


@needs_e2fs
def test_another_file_gives_other_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = made(tmp_path / "1", 1)
    monkeypatch.setitem(FILES, "etc/d0/f0", "other\n")
    assert made(tmp_path / "2", 1) != one


@needs_e2fs
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_all_of_it_is_roots_whoever_has_made_it(tmp_path: Path) -> None:
    target = tmp_path / "image"
    with target.open("wb") as file:
        file.truncate(disk.START + SIZE)
    folder = staged(tmp_path / "root", 1)
    for top, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(Path(top, name), 4242, 4242, follow_symlinks=False)
    disk.file_system(folder, target, disk.START, SIZE, Deadline(60, "test"))
    assert target.read_bytes() == made(tmp_path / "1", 1)


@needs_e2fs
def test_the_file_system_is_sound_and_holds_what_was_there(tmp_path: Path) -> None:
    content = made(tmp_path / "1", 1)
    alone = tmp_path / "alone"
    alone.write_bytes(content[disk.START :])
    subprocess.run(["e2fsck", "-f", "-n", alone], check=True, capture_output=True)
    words = ["debugfs", "-R", "cat /etc/d2/f7", str(alone)]
    told = subprocess.run(words, check=True, capture_output=True, text=True)
    assert told.stdout == FILES["etc/d2/f7"]
    words = ["debugfs", "-R", "stat /tmp", str(alone)]
    assert "Mode:  01777" in subprocess.run(words, capture_output=True, text=True).stdout


@needs_e2fs
def test_too_little_room_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "large").write_bytes(os.urandom(SIZE))
    target = tmp_path / "image"
    with target.open("wb") as file:
        file.truncate(SIZE)
    with pytest.raises(CommandError):
        disk.file_system(folder, target, 0, SIZE, Deadline(60, "test"))


def test_the_first_sector_has_grubs_code_and_one_partition() -> None:
    source = Tree()
    code = bytes(range(256)) * 2
    source.add(f"/{disk.GRUB}/boot.img", Entry(0o644, code))
    sector = disk._first_sector(source, SIZE)
    assert len(sector) == disk.SECTOR
    assert sector[:440] == code[:440]
    assert sector[510:] == b"\x55\xaa"
    active, kind = sector[446], sector[450]
    first, count = struct.unpack_from("<II", sector, 454)
    assert (active, kind) == (0x80, 0x83)
    assert (first * disk.SECTOR, count * disk.SECTOR) == (disk.START, SIZE)
    assert sector[462:510] == bytes(48)


def test_a_recipe_without_grub_is_told_what_it_lacks() -> None:
    with pytest.raises(UsageError, match=r"boot\.img") as told:
        disk._first_sector(Tree(), SIZE)
    assert "grub-pc-bin" in told.value.hint


def test_a_library_that_a_program_lacks_is_named(tmp_path: Path) -> None:
    program = Path("/usr/bin/env")
    staged = tmp_path / "1"
    staged.write_bytes(program.read_bytes())
    tree = Tree()
    tree.add("/usr/bin/env", Entry(0o755, staged))
    with pytest.raises(LabctlError, match="which usr/bin/env needs"):
        closure.check_libraries(tree)
    for name in ("libc.so.6", "ld-linux-x86-64.so.2"):
        tree.add(f"/usr/lib/x86_64-linux-gnu/{name}", Entry(0o755, b""))
    closure.check_libraries(tree)
