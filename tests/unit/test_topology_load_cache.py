"""Topologies that were read before are taken from the cache, and never when anything changed."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path

import pytest

from labctl.sandbox import user_cache as store
from labctl.sandbox.init import MARK
from labctl.topology import TopologyError, load, load_cache, loader
from labctl.topology.model import Topology

TEXT = "networks: {lan: {}}\nnodes: {vm1: {interfaces: [{network: lan}]}}\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = tmp_path / "mine.yaml"
    made.write_text(TEXT)
    return made


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were really read."""
    seen: list[Path] = []
    real = loader.load

    def noting(path: Path) -> Topology:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(loader, "load", noting)
    return seen


def entries(tmp_path: Path) -> list[Path]:
    """Return what is kept."""
    return [one for one in (tmp_path / "cache/labctl/topologies").iterdir() if one.name != MARK]


def test_a_file_is_read_once(file: Path, reads: list[Path]) -> None:
    first, second = load_cache.load(file), load_cache.load(file)
    assert first == second == load(file)
    assert len(reads) == 1


def test_a_changed_or_moved_file_is_read_again(file: Path, reads: list[Path]) -> None:
    load_cache.load(file)
    file.write_text(TEXT.replace("vm1", "vm2"))
    assert list(load_cache.load(file).nodes) == ["vm2"]
    moved = file.rename(file.with_name("other.yaml"))
    assert load_cache.load(moved).name == "other"
    assert len(reads) == 3


def test_a_mistake_is_told_each_time(file: Path) -> None:
    file.write_text("nodes: [")
    for _ in range(2):
        with pytest.raises(TopologyError, match=r"mine\.yaml:2:"):
            load_cache.load(file)


def test_of_a_disk_image_named_by_mistake_no_more_is_read_than_a_topology_may_hold(
    file: Path,
) -> None:
    os.truncate(file, 256 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(TopologyError, match="larger than 1 MiB"):
            load_cache.load(file)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 16 << 20


def test_a_spoilt_entry_does_no_harm(file: Path, reads: list[Path], tmp_path: Path) -> None:
    good = load_cache.load(file)
    (entry,) = entries(tmp_path)
    text = entry.read_bytes()
    for spoilt in (
        b"", b"no JSON", b"\x80\x04N.", text[:-5], text.replace(b'"mtu":1500', b'"mtu":"x"'),
        text.replace(b'"version":1', b'"version":2'), text.replace(b"topologies", b"recipes"),
    ):  # fmt: skip
        entry.write_bytes(spoilt)
        assert load_cache.load(file) == good
    assert len(reads) == 8


def test_an_entry_that_runs_code_where_it_is_unpickled_runs_none(
    file: Path, reads: list[Path], tmp_path: Path
) -> None:
    good = load_cache.load(file)
    (entry,) = entries(tmp_path)
    entry.write_bytes(b"cos\nsystem\n(S'touch " + bytes(tmp_path / "made") + b"'\ntR.")
    assert load_cache.load(file) == good
    assert len(reads) == 2
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_what_others_could_have_written_is_not_used_and_nothing_is_added(
    file: Path, reads: list[Path], tmp_path: Path, mode: int
) -> None:
    load_cache.load(file)
    folder = tmp_path / "cache/labctl/topologies"
    folder.chmod(mode)
    file.write_text(TEXT + "# changed\n")
    for _ in range(2):
        load_cache.load(file)
    assert len(reads) == 3
    assert len(entries(tmp_path)) == 1


def test_what_belongs_to_another_user_is_not_used(
    file: Path, reads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_cache.load(file)
    folder = tmp_path / "cache/labctl/topologies"
    (entry,) = entries(tmp_path)
    owner = folder.stat().st_uid
    real = os.fstat

    def anothers(handle: int) -> os.stat_result:
        seen = real(handle)
        mine = seen.st_ino != judged.stat().st_ino
        return seen if mine else os.stat_result([*seen[:4], owner + 1, *seen[5:]])

    monkeypatch.setattr(os, "fstat", anothers)
    for judged in (entry, folder):
        assert judged.exists()
        load_cache.load(file)
    assert len(reads) == 3


@pytest.mark.parametrize("link", ["entry", "folder"])
def test_a_symbolic_link_is_not_followed(
    file: Path, reads: list[Path], tmp_path: Path, link: str
) -> None:
    load_cache.load(file)
    folder = tmp_path / "cache/labctl/topologies"
    (entry,) = entries(tmp_path)
    linked = {"entry": entry, "folder": folder}[link]
    linked.symlink_to(linked.rename(tmp_path / "elsewhere"))
    load_cache.load(file)
    assert len(reads) == 2


def test_a_topology_with_files_of_its_own_is_not_kept(file: Path) -> None:
    kernel = file.with_name("kernel")
    kernel.touch()
    file.write_text(TEXT.replace("{interfaces", "{kernel: ./kernel, interfaces"))
    load_cache.load(file)
    kernel.unlink()
    with pytest.raises(TopologyError, match="kernel"):
        load_cache.load(file)


def test_only_so_many_are_kept(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(store, "MOST", 2)
    for number in range(4):
        file.write_text(f"{TEXT}# {number}\n")
        load_cache.load(file)
    assert len(entries(tmp_path)) == 2


def test_what_else_is_there_stays_however_much_is_kept(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(store, "MOST", 1)
    folder = tmp_path / "cache/labctl/topologies"
    folder.mkdir(parents=True)
    others = [folder / "notes", folder / ("a" * 64)]
    for other in others:
        other.touch()
        os.utime(other, (0, 0))
    for number in range(3):
        file.write_text(f"{TEXT}# {number}\n")
        load_cache.load(file)
    assert all(other.exists() for other in others)


def test_a_cache_that_cannot_be_written_to_serves_what_it_has(
    file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_cache.load(file)

    def refuse(name: str, **_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", name)

    monkeypatch.setattr(os, "utime", refuse)
    assert load_cache.load(file) == first
    assert len(reads) == 1


def test_a_disk_that_is_full_keeps_nothing_and_no_part(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, _to: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "replace", refuse)
    assert load_cache.load(file).name == "mine"
    assert entries(tmp_path) == []
