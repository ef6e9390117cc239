"""Building from packages made here and served on loopback: no archive and no root needed."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from labctl import images
from labctl.errors import DeadlineError, HostError, LabctlError, UsageError
from labctl.events import Event
from labctl.images import assemble, cache, closure, mirror, recipe, unpack
from labctl.images.tree import Entry, Tree
from labctl.world.deadline import Deadline
from labctl.world.process import Result

RELEASE = "9.9-test"


def deb(files: Mapping[str, bytes | str]) -> bytes:
    """A Debian package; a `str` is a symbolic link's target."""

    def tar(content: Mapping[str, bytes | str]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
            for name, value in content.items():
                info = tarfile.TarInfo(f"./{name}")
                info.mode = 0o755
                if isinstance(value, str):
                    info.type, info.linkname = tarfile.SYMTYPE, value
                    archive.addfile(info)
                else:
                    info.size = len(value)
                    archive.addfile(info, io.BytesIO(value))
        return buffer.getvalue()

    package = b"!<arch>\n"
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": tar({"control": b"Package: x\nVersion: 1\nArchitecture: all\n"}),
        "data.tar.xz": tar(files),
    }
    for name, data in members.items():
        package += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        package += data + b"\n" * (len(data) % 2)
    return package


PACKAGES = {
    "linux-image-test": deb({f"boot/vmlinuz-{RELEASE}": b"a kernel"}),
    "tools": deb({"bin/tool": b"#!/bin/sh\n", "usr/bin/busybox": b"box", "sbin/t": "../bin/tool"}),
    "linux-image-two": deb({"boot/vmlinuz-1": b"1", "boot/vmlinuz-2": b"2"}),
    "shell": deb({"bin/sh": Path("/bin/sh").read_bytes()}),
    "linked": deb({"usr/bin/dangling": "nowhere"}),
    "xen-test": deb({"boot/xen-9.amd64.gz": gzip.compress(b"a hypervisor")}),
    "broken": b"not a package at all",
}

RECIPE: dict[str, Any] = {
    "description": "a test image",
    "suite": "bookworm",
    "kernel": "linux-image-test",
    "memory": 64,
    "packages": ["tools"],
    "files": ["usr/bin/tool", "usr/sbin/*"],
    "applets": "ls cat",
    "add": {"/init": {"file": "init", "mode": "755"}},
    "links": {"/etc/mtab": "/proc/mounts"},
    "text": {"/etc/hosts": "127.0.0.1 localhost\n"},
}


class Archive:
    """A Debian archive's pool on loopback, and one recipe with its lock."""

    def __init__(self, base: str, top: Path) -> None:
        self.base = base
        self.pool = top / "mirror/pool/main"
        self.recipes = top / "config/labctl/images"
        self.pool.mkdir(parents=True)
        for name, data in PACKAGES.items():
            (self.pool / f"{name}.deb").write_bytes(data)

    def write(self, name: str = "mine", /, **changes: Any) -> Path:
        folder = self.recipes / name
        folder.mkdir(parents=True, exist_ok=True)
        content = {**RECIPE, **changes}
        content = {key: value for key, value in content.items() if value is not None}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
        (folder / "init").write_text("#!/bin/sh\n")
        if "kernel" in content and "packages" in content:
            hypervisor = [content["hypervisor"]] if "hypervisor" in content else []
            names = [content["kernel"], *content["packages"], *hypervisor]
            self.lock(folder, content["kernel"], names)
        return folder

    def lock(self, folder: Path, kernel: str, names: list[str]) -> None:
        packages = [
            {
                "name": name,
                "version": "1.2-3",
                "sha256": hashlib.sha256(PACKAGES[name]).hexdigest(),
                "size": len(PACKAGES[name]),
                "path": f"pool/main/{name}.deb",
            }
            for name in names
        ]
        content = {
            "archive": "debian",
            "suite": "bookworm",
            "kernel": kernel,
            "kernel_package": kernel,
            "packages": packages,
        }
        (folder / "lock.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "mirror"))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("LABCTL_DEBIAN_MIRROR", base)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(variable, raising=False)
        try:
            yield Archive(base, tmp_path)
        finally:
            server.shutdown()
            thread.join()


def left_behind() -> list[str]:
    top = cache.root()
    return sorted(str(path.relative_to(top)) for path in top.glob("images/[!.]*/*"))


def test_an_image_is_built_from_packages_and_the_recipes_own_files(archive: Archive) -> None:
    archive.write()
    events: list[Event] = []
    image = images.get("mine", emit=events.append)
    assert image.kernel.read_bytes() == b"a kernel"
    assert image.kernel_release == RELEASE
    assert image.size == image.kernel.stat().st_size + image.initramfs.stat().st_size
    content = image.initramfs.read_bytes()
    for expected in (b"usr/bin/tool\0", b"usr/bin/ls\0", b"init\0", b"127.0.0.1 localhost\n"):
        assert expected in content
    states = [event.state for event in events]
    assert (states[0], states[-1]) == ("start", "done")
    assert "progress" in states


def test_a_second_get_takes_the_image_from_the_cache(archive: Archive) -> None:
    archive.write()
    first = images.get("mine")
    for package in archive.pool.iterdir():
        package.unlink()
    events: list[Event] = []
    assert images.get("mine", emit=events.append) == first
    assert events == []


def test_built_twice_is_the_same_bytes(archive: Archive) -> None:
    archive.write()
    first = images.build("mine")
    before = (first.kernel.read_bytes(), first.initramfs.read_bytes())
    first.initramfs.unlink()
    second = images.build("mine", force=True)
    assert (second.kernel.read_bytes(), second.initramfs.read_bytes()) == before


def test_a_hypervisor_is_unpacked_beside_the_kernel(archive: Archive) -> None:
    archive.write(hypervisor="xen-test")
    image = images.get("mine")
    assert image.hypervisor is not None
    assert image.hypervisor.read_bytes() == b"a hypervisor"
    assert images.get("mine") == image
    image.hypervisor.unlink()
    rebuilt = images.get("mine")
    assert rebuilt.hypervisor is not None
    assert rebuilt.hypervisor.read_bytes() == b"a hypervisor"
    archive.write()
    assert images.get("mine").hypervisor is None


def test_a_package_without_a_hypervisor_is_refused_as_one(archive: Archive) -> None:
    archive.write(hypervisor="shell")
    with pytest.raises(UsageError, match="shell holds 0 hypervisors"):
        images.get("mine")


@pytest.mark.parametrize("change", ["recipe", "file", "mode", "lock"])
def test_what_decides_the_bytes_decides_the_digest(archive: Archive, change: str) -> None:
    folder = archive.write()
    before = images.get("mine").digest
    if change == "recipe":
        archive.write(text={"/etc/hosts": "::1 localhost\n"})
    elif change == "file":
        (folder / "init").write_text("#!/bin/busybox sh\n")
    elif change == "mode":
        archive.write(add={"/init": {"file": "init", "mode": "700"}})
    else:
        lock = (folder / "lock.yaml").read_text()
        (folder / "lock.yaml").write_text(lock.replace("1.2-3", "1.2-4"))
    assert images.get("mine").digest != before


def test_another_builder_makes_another_digest(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write()
    loaded = recipe.load("mine")
    before = loaded.digest(loaded.lock())
    monkeypatch.setattr(recipe, "BUILDER", recipe.BUILDER + 1)
    assert loaded.digest(loaded.lock()) != before


def test_a_description_does_not_make_another_image(archive: Archive) -> None:
    archive.write()
    before = images.get("mine")
    archive.write(description="other words")
    assert images.get("mine") == before


def test_a_recipe_that_extends_another_adds_to_it(archive: Archive) -> None:
    archive.write("base")
    folder = archive.write("mine", **{**dict.fromkeys(RECIPE), "extends": "base", "applets": "vi"})
    archive.lock(folder, "linux-image-test", ["linux-image-test", "tools"])
    (folder / "init").unlink()  # comes from the folder that names it
    content = images.get("mine").initramfs.read_bytes()
    assert b"usr/bin/vi\0" in content
    assert b"usr/bin/ls\0" in content
    assert b"init\0" in content


def test_a_recipe_that_extends_itself_is_refused(archive: Archive) -> None:
    archive.write("mine", extends="other")
    archive.write("other", extends="mine")
    with pytest.raises(UsageError, match="extends itself"):
        images.get("mine")


def test_an_unknown_image_is_refused_with_the_nearest_known(archive: Archive) -> None:
    archive.write()
    for verb in (images.get, images.build, images.lock, images.remove):
        with pytest.raises(UsageError, match="no image mime") as caught:
            verb("mime")
        assert "mine" in caught.value.hint


@pytest.mark.parametrize("name", ["", "../mine", "/etc"])
def test_a_name_is_no_path(archive: Archive, name: str) -> None:
    archive.write()
    with pytest.raises(UsageError, match="there is no image"):
        images.get(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suite: [", "not YAML"),
        ("- a\n", "not a mapping"),
        ("suite: bookworm\n", "kernel: Field required"),
        (yaml.safe_dump({**RECIPE, "pakages": []}), "pakages: Extra inputs"),
        (yaml.safe_dump({**RECIPE, "suite": "x/../y"}), "suite:"),
        (yaml.safe_dump({**RECIPE, "add": {"/x": {"file": "gone"}}}), "cannot read .*gone"),
    ],
)
def test_a_recipe_that_is_none_is_refused_by_its_file(
    archive: Archive, text: str, message: str
) -> None:
    folder = archive.write()
    (folder / "recipe.yaml").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        images.get("mine")
    assert str(folder) in caught.value.message


def test_a_recipe_without_a_lock_says_how_to_make_one(archive: Archive) -> None:
    folder = archive.write()
    (folder / "lock.yaml").unlink()
    with pytest.raises(UsageError, match="has no lock") as caught:
        images.get("mine")
    assert caught.value.hint == "run: labctl image lock mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packages": ["tools", "shell"]}, "lacks the package shell"),
        ({"suite": "trixie"}, "is for linux-image-test of bookworm"),
        ({"kernel": "linux-image-two"}, "the recipe wants linux-image-two"),
    ],
)
def test_a_lock_made_for_another_recipe_is_refused(
    archive: Archive, changes: dict[str, Any], message: str
) -> None:
    folder = archive.write()
    old = (folder / "lock.yaml").read_text()
    archive.write(**changes)
    (folder / "lock.yaml").write_text(old)
    with pytest.raises(UsageError, match=message) as caught:
        images.get("mine")
    assert caught.value.hint == "run: labctl image lock mine"


@pytest.mark.parametrize("path", ["../x.deb", "http://host/pool/x.deb", "pool/a:b.deb"])
def test_a_lock_names_no_host_and_no_place_outside_the_pool(archive: Archive, path: str) -> None:
    folder = archive.write()
    lock = (folder / "lock.yaml").read_text()
    (folder / "lock.yaml").write_text(lock.replace("pool/main/tools.deb", path))
    with pytest.raises(UsageError, match=r"packages\.1\.path"):
        images.get("mine")


def test_a_package_with_another_sum_is_named_and_not_kept(archive: Archive) -> None:
    archive.write()
    (archive.pool / "tools.deb").write_bytes(PACKAGES["tools"][:-1] + b"!")
    with pytest.raises(LabctlError, match=r"tools 1\.2-3 is not what the lock pins") as caught:
        images.get("mine")
    assert "labctl image lock mine" in caught.value.hint
    assert "LABCTL_DEBIAN_MIRROR" in caught.value.hint
    kept = {path.name for path in cache.packages().iterdir()}
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
    assert list(cache.packages().iterdir()) == []


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

    def full(self: Path, *_: object, **__: object) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
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
    with pytest.raises(HostError, match=r"labctl-apt-.*: No space left"):
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": ["usr/bin/nothing*"]}, r"holds usr/bin/nothing\*"),
        (
            {"packages": ["tools", "shell"], "files": ["usr/bin/sh"]},
            "holds .*(ld-linux|libc).*, which usr/bin/sh needs",
        ),
        ({"packages": ["tools", "linked"], "files": ["usr/bin/dangling"]}, "is a link to nowhere"),
        ({"applets": "tool"}, "tool is named in `applets`"),
        ({"modules": ["no-such"]}, "has no module no_such"),
        ({"kernel": "linux-image-two"}, "holds 2 kernels"),
        ({"packages": ["tools", "broken"]}, "is not a Debian package"),
    ],
)
def test_what_a_recipe_wants_and_the_packages_lack_is_named(
    archive: Archive, changes: dict[str, Any], message: str
) -> None:
    archive.write(**changes)
    with pytest.raises(LabctlError, match=message):
        images.get("mine")
    assert left_behind() == []


@pytest.mark.parametrize("moment", ["unpack", "compose", "keep"])
def test_an_interrupted_build_leaves_no_half_image(
    archive: Archive, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write()

    def interrupt(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        where = {"unpack": unpack, "compose": assemble, "keep": cache}[moment]
        patch.setattr(where, moment, interrupt)
        with pytest.raises(KeyboardInterrupt):
            images.get("mine")
    assert left_behind() == []
    assert images.get("mine").kernel.read_bytes() == b"a kernel"


def test_what_a_killed_build_left_is_removed_by_the_next(archive: Archive) -> None:
    archive.write()
    stale = cache.root() / "images/.building/image"
    stale.mkdir(parents=True)
    (stale / "kernel").write_text("half")
    part = cache.packages() / "x.part"
    part.parent.mkdir()
    part.write_text("half")
    images.get("mine")
    assert not stale.exists()
    assert not part.exists()


@pytest.mark.parametrize("harm", ["truncated", "no notes", "bad notes", "other digest", "gone"])
def test_a_damaged_image_in_the_cache_is_built_again(archive: Archive, harm: str) -> None:
    archive.write()
    image = images.get("mine")
    before = image.initramfs.read_bytes()
    notes = image.kernel.parent / "image.json"
    if harm == "truncated":
        image.initramfs.write_bytes(before[:-4])
    elif harm == "no notes":
        notes.unlink()
    elif harm == "bad notes":
        notes.write_text("{")
    elif harm == "other digest":
        notes.write_text(json.dumps({**json.loads(notes.read_text()), "digest": "0" * 64}))
    else:
        image.kernel.unlink()
    again = images.get("mine")
    assert again.initramfs.read_bytes() == before
    assert again.digest == image.digest


def test_two_builders_wait_for_each_other(archive: Archive) -> None:
    archive.write()
    with (
        cache.builder(Deadline(10, "building")),
        pytest.raises(DeadlineError, match="waiting"),
        cache.builder(Deadline(0.3, "waiting")),
    ):
        pass
    found: list[images.Image] = []
    threads = [threading.Thread(target=lambda: found.append(images.get("mine"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 4
    assert len(set(found)) == 1


def test_listed_are_all_recipes_built_or_not_and_the_broken_with_their_fault(
    archive: Archive,
) -> None:
    archive.write("built")
    archive.write("unbuilt", text={})
    (archive.write("broken") / "recipe.yaml").write_text("[]")
    (archive.write("unlocked") / "lock.yaml").unlink()
    image = images.get("built")
    listed = {item.name: item for item in images.list_images()}
    assert {"micro", "micro-generic", "built", "unbuilt", "broken", "unlocked"} <= set(listed)
    assert listed["built"].image == image
    assert listed["built"].description == "a test image"
    assert listed["unbuilt"].image is None
    assert len(listed["unbuilt"].digest) == 64
    assert "not a mapping" in listed["broken"].problem
    assert "has no lock" in listed["unlocked"].problem


def test_removed_is_one_image_in_all_its_versions_or_everything(archive: Archive) -> None:
    archive.write("a")
    archive.write("a-b")
    images.get("a")
    archive.write("a", text={})
    images.get("a")
    other = images.get("a-b")
    removed = images.remove("a")
    assert [name.rpartition("-")[0] for name in removed] == ["a", "a"]
    assert images.get("a-b") == other
    assert images.remove("a") == []
    for folder in (cache.kernels(), cache.root() / "recipes", cache.root() / "topologies"):
        folder.mkdir(exist_ok=True)
        (folder / "something").touch()
    assert images.remove() == [other.kernel.parent.name]
    assert not cache.packages().exists()
    assert {entry.name for entry in cache.root().iterdir()} == {"images", "topologies"}


def test_libraries_come_with_the_programs_that_need_them() -> None:
    source, target = Tree(), Tree()
    source.add("/bin/sh", Entry(0o755, Path("/bin/sh")))
    source.add("/lib64/ld-linux-x86-64.so.2", Entry(0o777, link="/usr/lib64/real-ld"))
    source.add("/usr/lib64/real-ld", Entry(0o755, b"\x7fELF is not always one"))
    source.add("/lib/x86_64-linux-gnu/libc.so.6", Entry(0o755, b"text"))
    source.add("/usr/bin/unwanted", Entry(0o755, b"text"))
    closure.copy_with_libraries(source, ["usr/bin/sh"], target)
    assert sorted(target) == [
        "usr/bin/sh",
        "usr/lib/x86_64-linux-gnu/libc.so.6",
        "usr/lib64/ld-linux-x86-64.so.2",
        "usr/lib64/real-ld",
    ]


def test_what_is_excluded_stays_out() -> None:
    source = Tree()
    for path in ("usr/lib/p/a", "usr/lib/p/deep/b", "usr/lib/p/deep/c"):
        source.add(path, Entry(0o644, b""))
    assert closure.choose(source, ["usr/lib/p/**"], ["*/deep/b"]) == [
        "usr/lib/p/a",
        "usr/lib/p/deep/c",
    ]


def test_shipped_recipes_have_locks_that_fit_and_name_no_host() -> None:
    for name in ("micro", "micro-generic"):
        loaded = recipe.load(name)
        loaded.lock()
        assert "://" not in loaded.lock_file.read_text()
