"""Templates in the cache: found where they are whole and ours, bounded, gone with images."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path

import pytest

from labctl.errors import DeadlineError
from labctl.images import templates
from labctl.images.templates import Template
from labctl.sandbox.deadline import Deadline


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "labctl"


def made(number: int, image: str = "micro", digest: str = "") -> Template:
    """Keep a template as its maker does."""
    one = Template(
        key=templates.key(["shape", str(number)]),
        image=image,
        image_digest=digest,
        mebibytes=128,
        memory_digest="m",
        state_digest="s",
    )
    with templates.maker(Deadline(10, "the lock")) as folder:
        (folder / templates.MEMORY).write_bytes(b"memory")
        (folder / templates.STATE).write_bytes(b"state")
        templates.keep(folder, one)
    return one


def test_a_key_is_another_where_any_part_is() -> None:
    parts = ["image", "shape", "qemu 1", "libvirt 1", "kernel 1"]
    keys = {templates.key(parts)}
    for index in range(len(parts)):
        keys.add(templates.key([*parts[:index], "other", *parts[index + 1 :]]))
    keys.add(templates.key(["imageshape", *parts[2:]]))
    assert len(keys) == len(parts) + 2


def test_what_was_kept_is_found_by_its_key_alone() -> None:
    one = made(1)
    assert templates.find(one.key) == one
    assert templates.find(made(2).key) != one
    assert templates.find(templates.key(["another"])) is None
    assert {each.key for each in templates.listed()} == {one.key, made(2).key}


@pytest.mark.parametrize("name", [templates.MEMORY, templates.STATE, templates.NOTES])
@pytest.mark.parametrize("fault", ["gone", "link", "for all", "folder"])
def test_one_that_is_not_whole_or_not_ours_is_not_found(
    name: str, fault: str, tmp_path: Path
) -> None:
    one = made(1)
    file = one.folder / name
    content = file.read_bytes()
    if fault == "for all":
        one.folder.chmod(0o755)
        file.chmod(0o666)
    else:
        file.unlink()
    if fault == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        file.symlink_to(tmp_path / "elsewhere")
    if fault == "folder":
        file.mkdir()
    assert templates.find(one.key) is None


def test_one_of_another_version_or_key_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    one = made(1)
    notes = one.folder / templates.NOTES
    plain = json.loads(notes.read_text())
    plain["value"]["key"] = templates.key(["another"])
    notes.write_text(json.dumps(plain))
    assert templates.find(one.key) is None
    other = made(2)
    monkeypatch.setattr(templates, "VERSION", templates.VERSION + 1)
    assert templates.find(other.key) is None


def test_a_copied_folder_is_not_taken() -> None:
    one = made(1)
    other = templates.place(templates.key(["another"]))
    other.mkdir()
    for file in one.folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    assert templates.find(other.name) is None


def test_a_damaged_one_gives_way_to_a_new_one() -> None:
    one = made(1)
    (one.folder / templates.NOTES).write_text("no notes")
    assert templates.find(one.key) is None
    assert templates.find(made(1).key) == one


def test_why_there_is_none_is_kept_too() -> None:
    one = Template(templates.key(["x"]), "own", "", 128, obstacle="it cannot wait")
    with templates.maker(Deadline(10, "the lock")) as folder:
        templates.keep(folder, one)
    assert templates.find(one.key) == one


def test_two_do_not_make_one_at_once() -> None:
    with (
        templates.maker(Deadline(10, "the lock")),
        pytest.raises(DeadlineError, match="another maker"),
        templates.maker(Deadline(0.05, "another maker")),
    ):
        pass
    assert templates.listed() == []


def test_a_maker_that_fails_leaves_nothing(cache: Path) -> None:
    with contextlib.suppress(ValueError), templates.maker(Deadline(10, "lock")) as folder:
        (folder / templates.MEMORY).write_bytes(b"half")
        raise ValueError
    assert sorted(one.name for one in (cache / "templates").iterdir()) == [".labctl-made", ".lock"]


def test_what_a_killed_maker_left_is_removed_by_the_next(cache: Path) -> None:
    if (child := os.fork()) == 0:
        with templates.maker(Deadline(10, "the lock")) as folder:
            (folder / templates.MEMORY).write_bytes(b"half")
            os._exit(0)
    os.waitpid(child, 0)
    left = [one for one in (cache / "templates").iterdir() if one.name.startswith(".making-")]
    assert left
    made(1)
    assert not left[0].exists()


def test_there_are_never_more_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "MOST", 3)
    kept = []
    for number in range(5):
        kept.append(made(number))
        os.utime(kept[-1].folder, (number, number))
    templates.find(kept[2].key)  # it was used last of all
    newest = made(9)
    assert {one.key for one in templates.listed()} == {kept[2].key, kept[4].key, newest.key}


def test_all_together_are_never_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    one = made(1)
    monkeypatch.setattr(templates, "MOST_BYTES", one.size)
    other = made(2)
    assert templates.listed() == [other]


def test_those_of_images_that_are_gone_go() -> None:
    gone = made(1, digest="d" * 64)
    own = made(2)
    assert not gone.folder.exists()
    assert own.folder.exists()


def test_removed_are_those_of_one_image_or_all() -> None:
    one, other, third = made(1), made(2, "other"), made(3, "other")
    assert set(templates.remove("other")) == {f"template {each.key}" for each in (other, third)}
    assert templates.listed() == [one]
    assert templates.remove() == [f"template {one.key}"]
    assert templates.listed() == []


def test_what_labctl_did_not_make_stays(cache: Path) -> None:
    made(1)
    theirs = cache / "templates" / "mine"
    theirs.mkdir()
    (theirs / "memory").write_text("mine")
    templates.remove()
    assert (theirs / "memory").read_text() == "mine"


def test_looking_is_not_using() -> None:
    one = made(1)
    os.utime(one.folder, (7, 7))
    assert templates.listed() == [one]
    assert one.folder.stat().st_mtime == 7
    templates.find(one.key)
    assert one.folder.stat().st_mtime > 7


def test_a_template_is_the_users_alone() -> None:
    one = made(1)
    assert dataclasses.replace(one) == one
    assert one.folder.stat().st_mode & 0o077 == 0
    assert (one.folder / templates.NOTES).stat().st_mode & 0o077 == 0
