"""A template's files: known by their digests, and changed by nobody who has them open."""

from __future__ import annotations

import dataclasses
import mmap
import os
import stat
from pathlib import Path

import pytest

from labctl.guests import saved
from labctl.guests.spec import Saved

MIB = 1 << 20
CONTENT = b"a" * 5 + bytes(3 * MIB) + b"b" * MIB + bytes(MIB - 5)
"""Data, a hole, data that begins within a MiB, and zeros at the end."""


def write(path: Path, content: bytes, *, holes: bool) -> Path:
    """Write a file whose zeros are holes, or are not."""
    with path.open("wb") as file:
        for at in range(0, len(content), 4096):
            piece = content[at : at + 4096]
            if holes and not any(piece):
                continue
            file.seek(at)
            file.write(piece)
        file.truncate(len(content))
    return path


def digest(path: Path) -> str:
    to = saved.new_file("test")
    with path.open("rb") as file:
        try:
            return saved.copy(file.fileno(), to)
        finally:
            os.close(to)


@pytest.fixture
def template(tmp_path: Path) -> Saved:
    memory = write(tmp_path / "memory", CONTENT, holes=True)
    state = write(tmp_path / "state", b"state", holes=False)
    return Saved(memory, digest(memory), state, digest(state))


def test_what_is_kept_is_what_was_there(tmp_path: Path) -> None:
    file = saved.new_file("test", len(CONTENT))
    try:
        os.pwrite(file, CONTENT, 0)
        told = saved.keep(file, tmp_path / "kept")
    finally:
        os.close(file)
    assert (tmp_path / "kept").read_bytes() == CONTENT
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o600
    assert told == digest(tmp_path / "kept")


def test_zeros_are_not_stored_but_counted(tmp_path: Path, template: Saved) -> None:
    assert digest(write(tmp_path / "dense", CONTENT, holes=False)) == template.memory_digest
    assert digest(write(tmp_path / "longer", CONTENT + b"\0", holes=True)) != template.memory_digest
    moved = CONTENT[MIB:] + CONTENT[:MIB]
    assert digest(write(tmp_path / "moved", moved, holes=True)) != template.memory_digest
    with saved.opened(template) as copies:
        copies.check()
        assert os.fstat(copies.memory).st_blocks * 512 < len(CONTENT)


def test_a_template_is_given_as_it_was_saved(template: Saved) -> None:
    with saved.opened(template) as copies:
        copies.check()
        assert os.pread(copies.memory, len(CONTENT) + 1, 0) == CONTENT
        assert os.pread(copies.state, 10, 0) == b"state"


def test_a_file_of_the_whole_memory_is_there_before_it_is_checked(template: Saved) -> None:
    with saved.opened(template) as copies:
        assert os.fstat(copies.memory).st_size == len(CONTENT)
        copies.check()


@pytest.mark.parametrize("name", ["memory", "state"])
@pytest.mark.parametrize("fault", ["changed", "truncated", "longer", "emptied"])
def test_a_damaged_template_is_noticed(template: Saved, name: str, fault: str) -> None:
    path: Path = getattr(template, name)
    content = bytearray(path.read_bytes())
    if fault == "changed":
        content[-1] ^= 1
    elif fault == "longer":
        content += b"\0"
    else:
        del content[len(content) // 2 if fault == "truncated" else 0 :]
    path.write_bytes(content)
    with saved.opened(template) as copies:
        for _ in "each guest":
            with pytest.raises(saved.DamagedError, match=f"its {name} is not"):
                copies.check()


def test_a_template_that_is_not_there_or_a_link_is_not_taken(
    template: Saved, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(template.state)
    for file in ("nothing", "link"):
        other = dataclasses.replace(template, state=tmp_path / file)
        with pytest.raises(OSError, match=file), saved.opened(other):
            pass


def test_nobody_changes_what_clones_go_on_from_though_they_have_it_open(template: Saved) -> None:
    """QEMU opens it to write, and is not to be trusted when its guest has broken out."""
    with saved.opened(template) as copies:
        memory = copies.memory
        copies.check()
        handle = os.open(f"/proc/self/fd/{memory}", os.O_RDWR)
        try:
            for change in (
                lambda: os.pwrite(handle, b"x", 0),
                lambda: os.ftruncate(handle, 0),
                lambda: os.ftruncate(handle, 8 * MIB),
                lambda: mmap.mmap(handle, 4096, mmap.MAP_SHARED),
            ):
                with pytest.raises(PermissionError):
                    change()
            with mmap.mmap(handle, 4096, mmap.MAP_PRIVATE) as own:
                own[:3] = b"own"
                assert own[:5] == b"ownaa"
        finally:
            os.close(handle)
        assert os.pread(memory, len(CONTENT), 0) == CONTENT
