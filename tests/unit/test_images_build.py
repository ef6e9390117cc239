"""Building from packages made here and served on loopback: no archive and no root needed."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from debian_archive import RECIPE, RELEASE, Archive, left_behind

from labctl import images
from labctl.errors import DeadlineError, HostError, LabctlError, UsageError
from labctl.events import Event
from labctl.images import assemble, cache, closure, recipe, unpack
from labctl.images.tree import Entry, Tree
from labctl.sandbox import owned
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.init import MARK

pytest_plugins = ["debian_archive"]


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
        (yaml.safe_dump({**RECIPE, "add": {"/x": {"file": "a\0b"}}}), "cannot read .*no path"),
        (yaml.safe_dump({**RECIPE, "add": {"/x": {"file": "x" * 300}}}), "cannot read .*too long"),
        (f"extends: {'x' * 300}", "there is no image"),
        ("memory: !!timestamp 1", "the tag"),
        ("suite: 2001-99-99", "suite: "),
        ("memory: !!binary '*'", "the tag"),
        ("memory: !!bool x", "cannot be read as bool"),
        (f"memory: {'9' * 5000}", "cannot be read as int"),
        ("[" * 5000, "nested"),
        ("a: &a [*a]", "without end"),
    ],
)
def test_a_recipe_that_is_none_is_refused_by_its_file(
    archive: Archive, text: str, message: str
) -> None:
    folder = archive.write()
    (folder / "recipe.yaml").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        images.get("mine")
    if not text.startswith("extends"):
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
    stale = cache.root() / "images/.building-1"
    owned.make(stale)
    (stale / "kernel").write_text("half")
    images.get("mine")
    assert not stale.exists()


def test_what_labctl_did_not_make_stays_in_the_cache(archive: Archive) -> None:
    archive.write()
    image = images.get("mine")
    others = [
        cache.root() / "images/.building/file",
        cache.root() / "images/.building-2/file",
        cache.root() / f"images/mine-{'0' * 12}/kernel",
        cache.packages() / "x.part",
        cache.packages() / f"{'0' * 64}.deb",
        cache.root() / "recipes-of-mine/file",
        cache.root() / "notes",
    ]
    (cache.packages() / MARK).unlink()
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.write_text("precious")
    with pytest.raises(LabctlError, match="labctl did not make"):
        images.remove()
    images.get("mine")
    assert [other.read_text() for other in others] == ["precious"] * len(others)
    assert sorted(image.kernel.parent.iterdir())  # built again


def test_something_else_in_the_place_of_an_image_is_refused(archive: Archive) -> None:
    archive.write()
    image = images.get("mine")
    images.remove("mine")
    image.kernel.parent.mkdir()
    (image.kernel.parent / "file").write_text("precious")
    with pytest.raises(HostError, match="labctl did not make it"):
        images.get("mine")
    assert (image.kernel.parent / "file").read_text() == "precious"


def test_an_image_from_before_there_were_marks_is_removed(archive: Archive) -> None:
    archive.write()
    folder = images.get("mine").kernel.parent
    (folder / MARK).unlink()
    (folder / "file").write_text("precious")
    with pytest.raises(LabctlError, match="labctl did not make"):
        images.remove("mine")
    assert [entry.name for entry in folder.iterdir()] == ["file"]


@pytest.mark.parametrize("fault", ["truncated", "no notes", "bad notes", "other digest", "gone"])
def test_a_damaged_image_in_the_cache_is_built_again(archive: Archive, fault: str) -> None:
    archive.write()
    image = images.get("mine")
    before = image.initramfs.read_bytes()
    notes = image.kernel.parent / "image.json"
    if fault == "truncated":
        image.initramfs.write_bytes(before[:-4])
    elif fault == "no notes":
        notes.unlink()
    elif fault == "bad notes":
        notes.write_text("{")
    elif fault == "other digest":
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
        owned.claim(folder)
        (folder / "something").touch()
    assert images.remove() == [other.kernel.parent.name]
    assert not cache.packages().exists()
    assert {entry.name for entry in cache.root().iterdir()} == {"images", "topologies"}
    assert {entry.name for entry in (cache.root() / "images").iterdir()} == {".lock", MARK}


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
