"""Kernels unpacked, and what their notes say."""

from __future__ import annotations

import gzip
import lzma
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from elf_files import DOM0_BUS, GUEST_NOTES, elf

from labctl.errors import UsageError
from labctl.images import cache
from labctl.images.kernel import quickest, runs_as_dom0, runs_under_xen, unpacked
from labctl.sandbox.init import MARK

ELF = b"\x7fELF" + bytes(range(256)) * 40


def bzimage(payload: bytes, setup_sects: int = 3) -> bytes:
    """A kernel image whose setup header says where its payload lies."""
    image = bytearray((setup_sects + 1) * 512 + 100)
    image[0x1F1] = setup_sects
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 100, len(payload) + 4)
    return bytes(image) + payload + struct.pack("<I", len(ELF)) + b"more"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "pack", [gzip.compress, lambda data: lzma.compress(data, check=lzma.CHECK_CRC32)]
)
def test_the_elf_file_inside_is_found_and_kept(
    pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(bzimage(pack(ELF)))
    found = unpacked(kernel)
    assert found.read_bytes() == ELF
    assert found.is_relative_to(cache.root())
    assert unpacked(kernel) == found
    assert {file.name for file in found.parent.iterdir()} == {found.name, MARK}
    assert stat.S_IMODE(found.stat().st_mode) == 0o600  # the bzImage may be a private one


def test_what_a_killed_unpacking_left_is_removed_by_the_next(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(bzimage(gzip.compress(ELF)))
    unpack = "import sys; from pathlib import Path; from labctl.images import kernel\n"
    unpack += "kernel.os.fsync = lambda _: os.kill(os.getpid(), 9); import os\n"
    unpack += "kernel.unpacked(Path(sys.argv[1]))"
    killed = subprocess.run([sys.executable, "-c", unpack, str(kernel)], check=False)
    assert killed.returncode == -9
    found = unpacked(kernel)
    files = [file for file in cache.root().rglob("*") if file.is_file()]
    files = [file for file in files if file.name not in (".lock", MARK)]
    assert files == [found]


def test_an_unpacked_kernel_is_taken_as_it_is(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(ELF)
    assert unpacked(kernel) == kernel


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"#!/bin/sh\n", "is not a Linux kernel"),
        (bytes(0x300), "is not a Linux kernel"),
        (bzimage(b"no format that is known"), "cannot be unpacked|holds no ELF file"),
        (bzimage(gzip.compress(b"a shell script")), "holds no ELF file"),
        (bzimage(gzip.compress(ELF)[:200]), "cannot be unpacked"),
        (None, "cannot read the kernel"),
    ],
)
def test_what_is_no_kernel_is_refused_and_leaves_nothing(
    content: bytes | None, why: str, tmp_path: Path
) -> None:
    kernel = tmp_path / "odd"
    if content is not None:
        kernel.write_bytes(content)
    with pytest.raises(UsageError, match=why):
        unpacked(kernel)
    assert not list((cache.root() / "kernels").glob("*"))


@pytest.mark.parametrize(
    ("notes", "tail", "guest", "dom0"),
    [
        (GUEST_NOTES, DOM0_BUS, True, True),
        (GUEST_NOTES, b"xen_cpuid", True, False),
        (((b"Xen", 6), (b"Linux", 15)), b"", False, False),
        (((b"Linux", 15),), DOM0_BUS, False, True),
        ((), b"", False, False),
    ],
)
def test_a_kernels_notes_and_strings_say_what_it_can_be_under_xen(
    notes: tuple[tuple[bytes, int], ...], tail: bytes, guest: bool, dom0: bool, tmp_path: Path
) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(elf(*notes, tail=tail))
    assert (runs_under_xen(kernel), runs_as_dom0(kernel)) == (guest, dom0)


def test_a_broken_elf_file_is_told(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(elf(*GUEST_NOTES)[:50])
    with pytest.raises(UsageError, match="vmlinux is a broken ELF file"):
        runs_under_xen(kernel)


@pytest.mark.parametrize(
    ("packaged", "inside"),
    [
        (bzimage(gzip.compress(elf((b"Xen", 6), (b"Xen", 18)))), True),
        (bzimage(gzip.compress(elf((b"Xen", 6), (b"Linux", 18)))), False),
        (bzimage(gzip.compress(ELF)), False),
        (b"no kernel", False),
    ],
)
def test_a_kernel_is_booted_unpacked_where_it_has_an_entry_for_that(
    packaged: bytes, inside: bool
) -> None:
    found = quickest(packaged, Path("vmlinuz"))
    assert found == (elf((b"Xen", 6), (b"Xen", 18)) if inside else packaged)
