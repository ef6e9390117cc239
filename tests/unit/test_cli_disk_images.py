"""The verbs of disk images: lock, pull, list and rm; and `up`, which refuses what is not pinned."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_words import Labctl
from disk_server import Server, left_behind

from labctl.errors import UsageError
from labctl.images import disk_cache
from labctl.kinds.guests.micro import Micro
from labctl.kinds.registry import registered
from labctl.lab import disk_users, preflight
from labctl.topology import load

pytest_plugins = ["cli_words", "disk_server"]

DATA = bytes(range(256)) * 8
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def url(server: Server) -> str:
    return server.add("a.raw", DATA)


@pytest.fixture
def file(url: str, tmp_path: Path) -> Path:
    path = tmp_path / "lab.yaml"
    path.write_text(f"nodes: {{vm1: {{image: {{url: '{url}'}}}}, vm2: {{}}}}\n")
    return path


@pytest.fixture(autouse=True)
def no_labs(runtime: Path) -> None:
    """None but the test's own."""


class Machine(Micro):
    name = "machine-of-a-test"
    summary = "a guest that boots a disk image"
    boots_disk = True


def test_up_names_the_command_that_pins(labctl: Labctl, file: Path, server: Server) -> None:
    assert labctl("validate", str(file)).code == 0
    file.write_text(file.read_text().replace("{image", f"{{kind: {Machine.name}, image", 1))
    with registered(Machine):
        with pytest.raises(UsageError, match="the image of vm1 has no digest: http") as caught:
            preflight.check_disks(load(file))
        assert caught.value.hint.startswith(f"run: labctl image lock {file}")
        assert server.asked == []
        assert labctl("image", "lock", str(file)).code == 0
        preflight.check_disks(load(file))


def test_a_kind_that_boots_no_disk_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(DATA)
    (tmp_path / "lab.yaml").write_text("nodes: {vm1: {kind: micro, image: {file: a.raw}}}\n")
    with pytest.raises(UsageError, match="of the kind micro, which boots no disk image") as caught:
        preflight.check_disks(load(tmp_path / "lab.yaml"))
    assert "write image:" in caught.value.hint


def test_lock_pins_and_fetches(labctl: Labctl, file: Path, url: str, server: Server) -> None:
    told = labctl("image", "lock", str(file))
    assert (told.code, told.out.splitlines()) == (
        0, [f"pinned: {DIGEST} {url}", f"locked: {file.with_suffix('.lock')}"],
    )  # fmt: skip
    assert DIGEST in file.with_suffix(".lock").read_text()
    assert labctl("image", "pull", str(file)).out.startswith(f"a.raw {DIGEST[:12]}: ")
    assert len(server.asked) == 1
    assert left_behind() == []


def test_what_is_pinned_stays_unless_it_is_renewed(
    labctl: Labctl, file: Path, url: str, server: Server
) -> None:
    labctl("image", "lock", str(file))
    server.add("a.raw", DATA[::-1])
    assert labctl("image", "lock", str(file)).out.startswith(f"was pinned: {DIGEST} {url}\n")
    other = hashlib.sha256(DATA[::-1]).hexdigest()
    told = labctl("image", "lock", "--renew", str(file))
    assert told.out.startswith(f"pinned: {other} {url}\n")
    assert DIGEST not in file.with_suffix(".lock").read_text()


def test_one_that_changed_upstream_is_told(labctl: Labctl, file: Path, server: Server) -> None:
    labctl("image", "lock", str(file))
    labctl("image", "rm", "--all")
    server.add("a.raw", DATA[::-1])
    told = labctl("image", "pull", str(file))
    assert told.code == 3
    assert "is not what is pinned" in told.err
    assert "labctl image lock --renew" in told.err
    assert "Traceback" not in told.err


def test_pull_without_a_lock_names_the_command(labctl: Labctl, file: Path) -> None:
    told = labctl("image", "pull", str(file))
    assert told.code == 2
    assert f"labctl image lock {file}" in told.err


def test_where_there_is_nothing_to_pin_or_pull_it_says_so(labctl: Labctl, tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text("nodes: {vm1: {}}\n")
    for verb, said in (("lock", "names no disk image by a URL"), ("pull", "boot no disk image")):
        told = labctl("image", verb, str(path))
        assert told.code == 2
        assert said in told.err
    assert labctl("image", "lock", "--renew", "micro").code == 2


def test_list_shows_source_size_and_who_uses_it(
    labctl: Labctl, file: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labctl("image", "lock", str(file))
    assert "no lab" in labctl("image", "list").out
    monkeypatch.setattr(disk_users, "find", lambda: {DIGEST: ["mylab"]})
    out = labctl("image", "list").out
    for word in (DIGEST[:12], "raw", "mylab", url, "0.0 MB"):
        assert word in out
    (told,) = [one for one in json.loads(labctl("image", "list", "--json").out) if "disk" in one]
    assert (told["name"], told["digest"], told["used_by"]) == ("a.raw", DIGEST, ["mylab"])


def test_rm_removes_it_unless_a_lab_uses_it(
    labctl: Labctl, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labctl("image", "lock", str(file))
    with monkeypatch.context() as used:
        used.setattr(disk_users, "find", lambda: {DIGEST: ["mylab"]})
        for words in (["a.raw"], ["--all"]):
            told = labctl("image", "rm", *words)
            assert told.code == 3
            assert "the lab mylab uses it" in told.err
    assert [one.facts.sha256 for one in disk_cache.listed()] == [DIGEST]
    assert labctl("image", "rm", "a.raw").out == f"removed a.raw {DIGEST[:12]}\n"
    assert disk_cache.listed() == []
    assert labctl("image", "rm", "a.raw").code == 2


def test_who_uses_an_image_is_told_by_the_labs_that_run(
    labctl: Labctl, file: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labctl("image", "lock", str(file))
    (disk,) = disk_cache.listed()
    alive = runtime / "one"
    monkeypatch.setattr("labctl.lab.state.known", lambda: [alive, runtime / "dead"])
    monkeypatch.setattr("labctl.lab.state.alive", lambda folder: folder == alive)
    monkeypatch.setattr(
        "labctl.lab.state.load",
        lambda folder: SimpleNamespace(name=folder.name, disks={"vm1": disk, "vm2": disk}),
    )
    assert disk_users.find() == {DIGEST: ["one"]}
