"""Disk images are what is pinned, lie in the cache whole or not at all, and are never changed."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import lzma
import os
import random
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from disk_server import Server, left_behind

from labctl import images
from labctl.errors import DeadlineError, HostError, LabctlError, UsageError
from labctl.events import Event
from labctl.images import decompress, disk_cache, disk_format, disk_remove, disks, overlay
from labctl.sandbox.deadline import Deadline
from labctl.topology.disk_image import DiskImage, Format

pytest_plugins = ["disk_server"]

DATA = random.Random(2).randbytes(391 << 9) + bytes(1 << 20) + random.Random(3).randbytes(1 << 12)
"""A raw disk with a hole."""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def at(url: str, data: bytes, form: Format = "raw") -> DiskImage:
    return DiskImage(form, url=url, sha256=digest(data))


def zstd(data: bytes) -> bytes:
    import libarchive

    buffer = io.BytesIO()
    with libarchive.custom_writer(buffer.write, "raw", "zstd") as archive:
        archive.add_file_from_memory("x", len(data), data)
    return buffer.getvalue()


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "xz": lzma.compress, "gz": gzip.compress, "zst": zstd
}  # fmt: skip


def test_an_image_is_fetched_once(server: Server) -> None:
    image = at(server.add("a.raw", DATA), DATA)
    told: list[Event] = []
    disk = images.get_disk(image, emit=told.append)
    assert disk.path.read_bytes() == DATA
    assert disk.path.stat().st_mode & 0o777 == 0o444
    assert (disk.facts.format, disk.facts.virtual_size) == ("raw", len(DATA))
    assert (told[0].state, told[-1].state, told[0].subject) == ("start", "done", "a.raw")
    assert images.get_disk(image) == disk
    assert len(server.asked) == 1
    assert left_behind() == []


@pytest.mark.parametrize("how", COMPRESSED)
def test_what_is_compressed_is_decompressed_after_its_digest_is_checked(
    server: Server, how: str
) -> None:
    packed = COMPRESSED[how](DATA)
    disk = images.get_disk(at(server.add(f"a.raw.{how}", packed), packed))
    assert disk.path.read_bytes() == DATA
    assert disk.facts.sha256 == digest(packed)
    assert disk.path.stat().st_blocks * 512 < len(DATA) - (1 << 19), "a hole is a hole again"
    assert left_behind() == []


@pytest.mark.parametrize("how", COMPRESSED)
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_archive_is_no_image(server: Server, how: str, damage: str) -> None:
    packed = COMPRESSED[how](random.Random(4).randbytes(100_000))
    if damage == "cut":
        packed = packed[:-20]
    else:  # at its end, where checksums are, but of zst, which libarchive writes without one
        at_ = 4 if how == "zst" else len(packed) - 12
        spoilt = bytes(one ^ 0x55 for one in packed[at_ : at_ + 12])
        packed = packed[:at_] + spoilt + packed[at_ + 12 :]
    with pytest.raises(LabctlError, match=r"a\.raw\.\w+ cannot be decompressed: ."):
        images.get_disk(at(server.add(f"a.raw.{how}", packed), packed))
    assert left_behind() == []


def test_one_that_decompresses_to_too_much_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompress, "MOST", 1 << 20)
    packed = gzip.compress(bytes(2 << 20))
    with pytest.raises(LabctlError, match="is larger than"):
        images.get_disk(at(server.add("a.raw.gz", packed), packed))
    assert left_behind() == []


def test_another_digest_is_told_and_not_kept(server: Server) -> None:
    image = at(server.add("a.raw", DATA[::-1]), DATA)
    with pytest.raises(
        LabctlError, match=f"is not what is pinned: its SHA-256 is .*{digest(DATA)}"
    ):
        images.get_disk(image)
    assert left_behind() == []
    assert disk_cache.listed() == []


def test_a_url_without_a_digest_is_not_fetched(server: Server) -> None:
    with pytest.raises(UsageError, match="nothing says the digest"):
        images.get_disk(DiskImage("raw", url=server.add("a.raw", DATA)))
    assert server.asked == []


def test_two_at_once_make_one_download(server: Server) -> None:
    image = at(server.add("a.raw", DATA), DATA)
    begun = threading.Barrier(2, timeout=60)

    def one() -> disk_cache.Disk:
        begun.wait()
        return images.get_disk(image)

    with ThreadPoolExecutor(2) as pool:
        first, second = [future.result() for future in [pool.submit(one), pool.submit(one)]]
    assert first == second
    assert len(server.asked) == 1
    assert left_behind() == []


@pytest.mark.parametrize("where", ["rename", "fsync", "mark"])
def test_a_kill_leaves_no_half_image(server: Server, where: str) -> None:
    """At any of the steps by which a download becomes an image of the cache."""
    url = server.add("a.raw", DATA)
    code = (
        "import os, pathlib\n"
        "from labctl import images\n"
        "from labctl.sandbox import owned\n"
        "from labctl.topology.disk_image import DiskImage\n"
        "end = lambda *_: os.kill(os.getpid(), 9)\n"
        f"image = DiskImage('raw', url={url!r}, sha256={digest(DATA)!r})\n"
        + {
            "rename": "pathlib.Path.rename = end\n",
            "fsync": "os.fsync = end\n",
            "mark": "owned.mark = end\n",
        }[where]
        + "images.get_disk(image)"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ}, check=False)
    assert done.returncode == -9
    assert disk_cache.listed() == []
    disk = images.get_disk(at(url, DATA))
    assert disk.path.read_bytes() == DATA
    assert left_behind() == []


def test_an_image_that_somebody_changed_is_fetched_again(server: Server) -> None:
    image = at(server.add("a.raw", DATA), DATA)
    disk = images.get_disk(image)
    disk.path.chmod(0o644)
    with disk.path.open("r+b") as file:
        file.write(b"!")
    os.utime(disk.path, ns=(0, disk.modified + 1))
    assert disk_cache.find(digest(DATA)) is None
    assert images.get_disk(image).path.read_bytes() == DATA


def test_what_labctl_did_not_make_is_neither_used_nor_removed(server: Server) -> None:
    image = at(server.add("a.raw", DATA), DATA)
    theirs = disk_cache.place(digest(DATA))
    theirs.mkdir(parents=True, mode=0o700)
    (theirs / "mine").write_text("mine")
    with pytest.raises(HostError, match="labctl did not make it"):
        images.get_disk(image)
    assert (theirs / "mine").read_text() == "mine"


def test_a_full_disk_is_told_as_that(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Iterator[bytes], *_: object) -> int:
        next(source)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(decompress, "write_sparse", full)
    packed = gzip.compress(DATA)
    with pytest.raises(HostError, match="No space left on device") as caught:
        images.get_disk(at(server.add("a.raw.gz", packed), packed))
    assert "free some space" in caught.value.hint
    assert [one for one in left_behind() if not one.startswith("parts/")] == []


# --- files of the user's -------------------------------------------------------------------------


@pytest.mark.usefixtures("cache")
def test_a_file_is_copied_so_that_it_may_change_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "mine.raw"
    path.write_bytes(DATA)
    disk = images.get_disk(DiskImage("raw", file=path))
    assert disk.facts.sha256 == digest(DATA)
    path.write_bytes(DATA[::-1])
    assert disk.path.read_bytes() == DATA
    assert images.get_disk(DiskImage("raw", file=path)).path.read_bytes() == DATA[::-1]


@pytest.mark.usefixtures("cache")
def test_a_file_that_is_known_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.raw.gz"
    path.write_bytes(gzip.compress(DATA))
    disk = images.get_disk(DiskImage("raw", file=path))
    monkeypatch.setattr(Path, "open", None)
    assert images.get_disk(DiskImage("raw", file=path)) == disk


@pytest.mark.usefixtures("cache")
def test_a_file_with_another_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.raw"
    path.write_bytes(DATA)
    with pytest.raises(LabctlError, match="is not what is pinned"):
        images.get_disk(DiskImage("raw", file=path, sha256=digest(b"")))
    assert images.get_disk(DiskImage("raw", file=path, sha256=digest(DATA)))


@pytest.mark.usefixtures("cache")
def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*gone\.raw: No such file"):
        images.get_disk(DiskImage("raw", file=tmp_path / "gone.raw"))


@pytest.mark.usefixtures("cache")
def test_a_file_that_changes_while_it_is_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.raw"
    path.write_bytes(DATA)
    real = disks._plain

    def writing(path: Path) -> Iterator[bytes]:
        yield from real(path)
        path.write_bytes(DATA + bytes(512))

    monkeypatch.setattr(disks, "_plain", writing)
    with pytest.raises(LabctlError, match="was changed while it was read"):
        images.get_disk(DiskImage("raw", file=path))
    assert disk_cache.listed() == []


# --- formats -------------------------------------------------------------------------------------


def made(path: Path, form: str, *more: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", form, *more, str(path), "64M"], check=True)
    return path


@pytest.mark.parametrize("form", ["qcow2", "vmdk", "vhdx", "raw"])
def test_each_format_tells_the_size_of_the_disk(tmp_path: Path, form: Format) -> None:
    assert disk_format.check(made(tmp_path / "a", form), form, "a") == 64 << 20


def test_a_raw_disk_ends_with_a_sector(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"!" * 513)
    assert disk_format.check(tmp_path / "a", "raw", "a") == 1024
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(LabctlError, match="is a disk of 0 bytes"):
        disk_format.check(tmp_path / "a", "raw", "a")


def test_a_vmdk_for_streaming_is_one_file_too(tmp_path: Path) -> None:
    path = made(tmp_path / "a.vmdk", "vmdk", "-o", "subformat=streamOptimized")
    assert disk_format.check(path, "vmdk", "a") == 64 << 20


@pytest.mark.parametrize(
    ("is_", "said", "hint"),
    [("qcow2", "raw", "write format: qcow2"), ("vhdx", "qcow2", "write format: vhdx"),
     ("raw", "vmdk", "look at it")],
)  # fmt: skip
def test_another_format_than_said_is_told(
    tmp_path: Path, is_: Format, said: Format, hint: str
) -> None:
    """As raw, a qcow2's own header would be the guest's disk."""
    with pytest.raises(UsageError, match=f"its format is said to be {said}") as caught:
        disk_format.check(made(tmp_path / "a", is_), said, "a")
    assert hint in caught.value.hint


def hostile(tmp_path: Path, name: str) -> tuple[Path, Format]:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret".ljust(512, b"!"))
    path = tmp_path / name
    match name:
        case "backing":
            return made(path, "qcow2", "-b", str(secret), "-F", "raw"), "qcow2"
        case "data file":
            return made(path, "qcow2", "-o", f"data_file={tmp_path}/data,data_file_raw=on"), "qcow2"
        case "parent":
            base = made(tmp_path / "base.vmdk", "vmdk")
            return made(path, "vmdk", "-b", str(base), "-F", "vmdk"), "vmdk"
        case "descriptor":
            return made(path, "vmdk", "-o", "subformat=monolithicFlat"), "vmdk"
        case "extents":
            # No capacity, so that QEMU goes by the descriptor inside (vmdk_open_vmdk4).
            text = b'# Disk DescriptorFile\ncreateType="monolithicFlat"\nRW 1 FLAT "secret" 0\n'
            head = b"KDMV" + struct.pack("<IIQQQQ", 1, 3, 0, 128, 1, 20)
            path.write_bytes(head.ljust(512, b"\0") + text.ljust(20 << 9, b"\0"))
            return path, "vmdk"
        case "kind":
            path = made(path, "vmdk")
            path.write_bytes(path.read_bytes().replace(b"monolithicSparse", b"twoGbMaxExtentFl"))
            return path, "vmdk"
        case "hidden parent":
            # The header leads elsewhere, and QEMU looks behind it all the same (vmdk_open).
            header = bytearray(made(path, "vmdk").read_bytes().ljust(64 << 9, b"\0"))
            words = header[512 : header.index(b"\0", 512)]
            header[28:36] = struct.pack("<Q", 40)
            header[40 << 9 : (40 << 9) + len(words)] = words
            words += b'\nparentFileNameHint="secret"\n'
            header[512 : 512 + len(words)] = words
            path.write_bytes(header)
            return path, "vmdk"
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    ["backing", "data file", "parent", "descriptor", "extents", "kind", "hidden parent"],
)
def test_an_image_that_names_other_files_is_refused_before_qemu_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path, form = hostile(tmp_path, name)
    monkeypatch.setattr(disk_format, "_asked", None)
    with pytest.raises(LabctlError, match=r"names .*, which its guest would read") as caught:
        disk_format.check(path, form, "a")
    assert caught.value.hint


def test_a_descriptor_beyond_all_files_is_no_fault_of_labctls(tmp_path: Path) -> None:
    path = made(tmp_path / "a", "vmdk")
    octets = bytearray(path.read_bytes())
    octets[28:36] = struct.pack("<Q", (1 << 64) - 1)
    path.write_bytes(octets)
    assert disk_format.check(path, "vmdk", "a") == 64 << 20


@pytest.mark.parametrize("name", ["backing", "data file"])
def test_what_qemu_finds_in_it_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path, form = hostile(tmp_path, name)
    monkeypatch.setattr(disk_format, "_check_qcow2", lambda *_: None)
    with pytest.raises(LabctlError, match="names other files, which its guest would read"):
        disk_format.check(path, form, "a")


def test_an_image_is_refused_whoever_names_it(server: Server, tmp_path: Path) -> None:
    data = hostile(tmp_path, "backing")[0].read_bytes()
    with pytest.raises(LabctlError, match="names a backing file"):
        images.get_disk(at(server.add("a.qcow2", data), data, "qcow2"))
    assert left_behind() == []
    assert disk_cache.listed() == []


def test_qemu_img_has_few_rights_and_little_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "a").open("wb") as file:
        words = [*disk_format._LIMITS, "cat", "/proc/self/status", "/proc/self/limits"]
        status, out, _ = disk_format._confined(words, file.fileno(), "a test")
        told = out.decode()
        assert status == 0
        assert re.search(r"Max address space +1073741824 +1073741824", told)
        assert re.search(r"Max cpu time +30 +30", told)
        assert re.search(r"Max file size +0 +0", told)
        if os.geteuid() == 0:
            assert re.search(r"Uid:\t65534\t65534\t65534\t65534\n", told)
            assert "Groups:\t \n" in told
            assert "CapBnd:\t0000000000000000" in told
            assert "NoNewPrivs:\t1" in told
        monkeypatch.setattr(disk_format, "INFO_SECONDS", 0.2)
        with pytest.raises(DeadlineError, match="a test took longer"):
            disk_format._confined(["sleep", "600"], file.fileno(), "a test")
        monkeypatch.undo()
        assert disk_format._confined(["yes"], file.fileno(), "a test")[0] == -1


def test_wrong_headers_are_errors_of_the_image(tmp_path: Path) -> None:
    sound = made(tmp_path / "a", "qcow2").read_bytes()
    path = tmp_path / "b"
    chance = random.Random(5)
    for _ in range(12):
        head = bytearray(sound[:120])
        for _ in range(4):
            head[chance.randrange(4, len(head))] = chance.randrange(256)
        path.write_bytes(bytes(head) + sound[120 : chance.randrange(120, len(sound))])
        with contextlib.suppress(LabctlError):  # and nothing else
            assert disk_format.check(path, "qcow2", "b") > 0
    for length in (4, 20, 71):
        path.write_bytes(sound[:length])
        with pytest.raises(LabctlError):
            disk_format.check(path, "qcow2", "b")


def test_qemu_img_that_says_nonsense_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path / "a", "qcow2")
    for said in ("", "[]", "{}", '{"virtual-size": "1", "format": "qcow2"}', "[" * 5000):
        answer = (0, said.encode(), b"")
        monkeypatch.setattr(disk_format, "_confined", lambda *_, answer=answer: answer)
        with pytest.raises(LabctlError, match="qemu-img cannot read a: it says nothing of use"):
            disk_format.check(path, "qcow2", "a")


# --- overlays ------------------------------------------------------------------------------------


@pytest.fixture
def disk(server: Server) -> disk_cache.Disk:
    return images.get_disk(at(server.add("a.raw", DATA), DATA))


def written(path: Path) -> None:
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 0x61 0 64k", str(path)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def test_what_is_written_to_an_overlay_leaves_the_image_as_it_is(
    disk: disk_cache.Disk, tmp_path: Path
) -> None:
    path = tmp_path / "vm1.qcow2"
    overlay.create(disk, path, deadline=Deadline(60, "making an overlay"))
    before = path.read_bytes()
    written(path)
    assert path.read_bytes() != before
    assert disk.path.read_bytes() == DATA
    assert disk_cache.find(disk.facts.sha256) == disk
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_overlay_may_be_larger_than_its_image(disk: disk_cache.Disk, tmp_path: Path) -> None:
    path = tmp_path / "vm1.qcow2"
    overlay.create(disk, path, deadline=Deadline(60, "making an overlay"), size=1 << 30)
    assert struct.unpack_from(">Q", path.read_bytes(), 24) == (1 << 30,)


def test_an_overlay_takes_the_place_of_nothing(disk: disk_cache.Disk, tmp_path: Path) -> None:
    path = tmp_path / "vm1.qcow2"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        overlay.create(disk, path, deadline=Deadline(60, "making an overlay"))
    assert path.read_text() == "mine"


def test_without_qemu_img_it_says_what_to_install(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "ENVIRONMENT", {"PATH": "/nowhere"})
    with pytest.raises(HostError, match="qemu-img is not installed") as caught:
        images.get_disk(at(server.add("a.raw", DATA), DATA))
    assert "apt-get install qemu-utils" in caught.value.hint
    assert server.asked == []


# --- removing ------------------------------------------------------------------------------------


def test_an_image_is_removed_by_what_it_is_called(server: Server, disk: disk_cache.Disk) -> None:
    other = images.get_disk(at(server.add("b/a.raw", DATA[:-512]), DATA[:-512]))
    assert disk_remove.chosen("nothing") == []
    assert disk_remove.chosen(disk.facts.source) == [disk]
    assert disk_remove.chosen(disk.facts.sha256[:8].upper()) == [disk]
    with pytest.raises(UsageError, match=r"a\.raw means several") as caught:
        disk_remove.chosen("a.raw")
    assert other.facts.sha256[:12] in caught.value.hint
    assert list(disk_remove.remove([disk], {})) == [f"a.raw {disk.facts.sha256[:12]}"]
    assert disk_cache.listed() == [other]


def test_an_image_that_a_lab_uses_stays_and_the_others_go(
    server: Server, disk: disk_cache.Disk
) -> None:
    other = images.get_disk(at(server.add("b.raw", DATA[:-512]), DATA[:-512]))
    gone: list[str] = []
    with pytest.raises(LabctlError, match="the lab mylab uses it") as caught:
        gone.extend(disk_remove.remove([disk, other], {disk.facts.sha256: ["mylab"]}, rest=True))
    assert "labctl down mylab" in caught.value.hint
    assert disk_cache.listed() == [disk]
    assert not disk_cache.parts().exists()
