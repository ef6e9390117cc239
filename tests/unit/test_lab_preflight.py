"""What a lab lacks of its host is told before anything is made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from labctl.backends.embedded import Embedded
from labctl.errors import HostError, UsageError
from labctl.images import Image
from labctl.lab import disk_guests, memory, preflight
from labctl.lab.lab import Lab
from labctl.sandbox import process
from labctl.topology import find, load, loads

MEMINFO = "MemTotal: 9999999 kB\nMemAvailable: 4096000 kB\nSwapFree: 0 kB\n"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all the programs of a lab, and no other."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in Embedded.programs:
        (folder / name).symlink_to("/bin/true")
    monkeypatch.setitem(process.ENVIRONMENT, "PATH", str(folder))
    return folder


@pytest.mark.parametrize("program", Embedded.programs)
def test_a_missing_program_is_told_with_its_package(program: str, tools: Path) -> None:
    (tools / program).unlink()
    with pytest.raises(HostError, match=f"^{program} is not installed$") as error:
        preflight.check_host(Embedded(""))
    assert Embedded.programs[program] in error.value.hint


def test_a_host_is_looked_at_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("LABCTL_RUNTIME_DIR", short)
        monkeypatch.setitem(process.ENVIRONMENT, "PATH", "/nowhere")
        with pytest.raises(HostError, match="is not installed"):
            Lab.up(load(find("bridged")), name="one")
        assert not (Path(short) / "labctl" / "one").exists()


@pytest.mark.parametrize("what", ["null", "file", "missing"])
@pytest.mark.usefixtures("tools")
def test_what_is_no_tun_device_is_told_before_anything_is_made(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tun"
    if what == "null":
        file.symlink_to(os.devnull)
    elif what == "file":
        file.touch()
    monkeypatch.setattr(preflight, "TUN", file)
    with pytest.raises(HostError, match=r"cannot be used|something else than the TUN") as error:
        preflight.check_host(Embedded(""))
    assert error.value.hint


# --- disks ---------------------------------------------------------------------------------------


def image(name: str, disk: Path | None = None) -> Image:
    return Image(name, "0" * 64, Path("k"), Path("i"), "6.1", 128, 1, "now", disk=disk)


@pytest.mark.parametrize(
    ("keys", "found", "told"),
    [
        ("{kind: disk, image: micro}", None, "its image micro is no disk"),
        ("{kind: micro, image: debian, memory: 512}", Path("d"), "its image debian is a disk"),
    ],
)
def test_a_kind_and_an_image_that_do_not_fit_are_told_with_a_way_out(
    keys: str, found: Path | None, told: str
) -> None:
    topology = loads(f"nodes: {{vm1: {keys}}}\n", "t.yaml")
    name = topology.nodes["vm1"].image
    with pytest.raises(UsageError, match=told) as error:
        preflight.check(topology, {name: image(name, found)}, Embedded(""))
    assert error.value.hint


def test_a_disk_is_what_the_kind_disk_and_the_image_debian_want() -> None:
    for keys in ("{kind: disk}", "{image: debian}", "{kind: disk, image: debian}"):
        topology = loads(f"nodes: {{vm1: {keys}}}\n", "t.yaml")
        node = topology.nodes["vm1"]
        assert (node.image, node.guest_kind.name, node.memory) == ("debian", "disk", 512)
        preflight.check(topology, {"debian": image("debian", Path("d"))}, Embedded(""))


def test_qemu_img_is_needed_for_overlays(tools: Path) -> None:
    topology = loads("nodes: {vm1: {image: debian}}\n", "t.yaml")
    with pytest.raises(HostError, match="qemu-img is not installed") as error:
        preflight.check_disks(topology)
    assert "qemu-utils" in error.value.hint
    (tools / "qemu-img").symlink_to("/bin/true")
    preflight.check_disks(topology)


def test_uefi_that_is_not_installed_is_told_with_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disk_guests, "UEFI", (("/nowhere/CODE", "/nowhere/VARS"),))
    with pytest.raises(HostError, match="no UEFI for guests") as error:
        disk_guests.uefi()
    assert "ovmf" in error.value.hint


# --- memory -------------------------------------------------------------------------------------


def v1(folder: Path, limit: int = 250) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit << 20}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{60 << 20}\n")
    (folder / "memory.stat").write_text(f"cache 1\ntotal_inactive_file {10 << 20}\n")


def v2(folder: Path, limit: int = 250) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit << 20}\n" if limit else "max\n")
    (folder / "memory.current").write_text(f"{60 << 20}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {10 << 20}\n")


def v2_above(root: Path) -> None:
    v2(root / "a/b", limit=0)
    v2(root / "a")


GROUPS: dict[str, tuple[str, Callable[[Path], None], int]] = {
    "version 1": ("4:memory:/a/b\n0::/\n", lambda root: v1(root / "memory/a/b"), 200),
    "version 1, above": ("4:cpu,memory:/a/b\n", lambda root: v1(root / "memory/a"), 200),
    "version 1, in a container": ("4:memory:/docker/x\n", lambda root: v1(root / "memory"), 200),
    "version 2": ("0::/a/b\n", lambda root: v2(root / "a/b"), 200),
    "version 2, above": ("0::/a/b\n", v2_above, 200),
    "more is used than there may be": ("0::/a\n", lambda root: v2(root / "a", limit=20), 0),
    "no limit": ("0::/a\n", lambda root: v2(root / "a", limit=0), 4000),
    "no group": ("", lambda _root: None, 4000),
}


@pytest.mark.parametrize("case", GROUPS)
def test_the_least_that_any_control_group_leaves_is_what_is_free(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, make, free = GROUPS[case]
    root = tmp_path / "groups"
    root.mkdir()
    make(root)
    for name, text in (("MEMINFO", MEMINFO), ("OURS", ours)):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(memory, name, tmp_path / name)
    monkeypatch.setattr(memory, "CGROUPS", root)
    assert memory.free() == free
