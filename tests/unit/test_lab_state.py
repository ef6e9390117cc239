"""What a lab remembers, and finding it again, with sandboxes that are only files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from stand_in import ended, standing

from labctl.backends import system_libvirt
from labctl.backends.state import State
from labctl.backends.system_libvirt import SystemLibvirt
from labctl.errors import LabctlError, UsageError
from labctl.guests.keys import Key
from labctl.images import Image
from labctl.lab import (
    guest_state,
    linkstate,
    preflight,
    state,
    status,
    teardown,
)
from labctl.lab.lab import Lab
from labctl.sandbox import owned, paths, trusted
from labctl.sandbox.init import MARK
from labctl.sandbox.namespaces import IDENTITY, Identity
from labctl.topology import find as find_topology
from labctl.topology import from_mapping
from labctl.topology import load as load_topology

IMAGE = Image(
    name="micro", digest="ab" * 32, kernel=Path("k"), initramfs=Path("i"), kernel_release="6.1",
    memory=96, size=1, built="2026-01-01T00:00:00+00:00",
)  # fmt: skip


pytest_plugins = ["stand_in"]
pytestmark = pytest.mark.usefixtures("any_process_is_an_init")


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(tmp_path))
    return paths.runtime()


def make(runtime: Path, name: str, *, alive: bool = True, host: bool = False) -> Path:
    """Make a lab's directory; its PID 1 is this very process, or none at all."""
    folder = runtime / name
    owned.make(folder)
    if host:
        (folder / "host-sandbox").touch()
    else:
        identity = standing(os.getpid()) if alive else ended(os.getpid())
        (folder / IDENTITY).write_text(json.dumps(asdict(identity)))
    return folder


def known(name: str) -> State:
    topology = load_topology(find_topology("bridged"))
    return State(
        name=name, topology=topology, accel="tcg", images=dict.fromkeys(topology.nodes, IMAGE),
        client=Key("a", "b", "c"), hostkeys={}, uri="", started="now", complete=True,
    )  # fmt: skip


def test_a_state_is_read_as_it_was_written(runtime: Path) -> None:
    folder = make(runtime, "one")
    state.save(folder, known("one"))
    assert state.load(folder) == known("one")
    assert sorted(entry.name for entry in folder.iterdir()) == [MARK, "lab.state", IDENTITY]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x80", b"not JSON", b"cno_such_module\nthing\n.", b"\x80\x04N.", b"[]", b"{}",
        b'{"labctl": "lab.state"}', b'{"labctl": "lab.state", "version": 1, "codec": 1}',
        b'{"labctl": "lab.state", "version": "1", "codec": 1, "value": {}}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_state_that_cannot_be_read_is_one_error(runtime: Path, data: bytes) -> None:
    folder = make(runtime, "one")
    (folder / state.STATE).write_bytes(data)
    with pytest.raises(LabctlError, match="state of lab one cannot be read"):
        state.load(folder)
    told = status.describe(folder)
    assert told["state"] == "damaged"
    assert "state of lab one cannot be read" in told["problem"]
    assert "labctl down one" in told["hint"]


def change(folder: Path, do: Callable[[dict[str, Any]], None]) -> None:
    """Change what a state's file says."""
    file = folder / state.STATE
    document = json.loads(file.read_bytes())
    do(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("do", "why"),
    [
        (lambda all: all["value"].pop("uri"), "uri: is missing"),
        (lambda all: all["value"].update(more=1), "more: is unknown in State"),
        (
            lambda all: all["value"].update(accel="vax"),
            "accel: one of 'kvm', 'tcg', 'xen', 'none' should",
        ),
        (
            lambda all: all["value"]["topology"]["nodes"]["vm1"].update(memory="much"),
            "topology.nodes.vm1.memory: a whole number should stand here, not 'much'",
        ),
        (
            lambda all: all.update(version=2),
            r"it was written by a newer labctl \(version 2",
        ),
        (lambda all: all.update(codec=2), r"it was written by a newer labctl \(codec 2"),
        (lambda all: all.update(version=0), "it was written by another labctl"),
        (lambda all: all.update(labctl="sandbox"), "it is not a lab.state of labctl"),
    ],
)
def test_a_state_of_another_labctl_is_one_that_cannot_be_read(
    runtime: Path, do: Callable[[dict[str, Any]], None], why: str
) -> None:
    folder = make(runtime, "one")
    state.save(folder, known("one"))
    change(folder, do)
    with pytest.raises(LabctlError, match=f"of lab one cannot be read: {why}") as told:
        state.load(folder)
    assert "\n" not in told.value.message
    assert "labctl down one" in told.value.hint


@pytest.mark.parametrize("mark", [b"", b"\x80\x04"])
def test_a_state_that_is_a_pickle_is_not_loaded_and_the_lab_goes_all_the_same(
    runtime: Path, tmp_path: Path, mark: bytes
) -> None:
    folder = make(runtime, "one", alive=False)
    text = b"cos\nsystem\n(S'touch " + bytes(tmp_path / "made") + b"'\ntR."
    (folder / state.STATE).write_bytes(mark + text)
    with pytest.raises(LabctlError, match="state of lab one cannot be read") as told:
        state.load(folder)
    assert ("which an older labctl wrote" in told.value.message) == bool(mark)
    assert "\n" not in told.value.message
    teardown.end(folder)
    assert not folder.exists()
    assert not (tmp_path / "made").exists()


def test_a_state_that_lacks_what_has_a_default_is_that_of_an_older_labctl(runtime: Path) -> None:
    folder = make(runtime, "one")
    state.save(folder, known("one"))

    def older(document: dict[str, Any]) -> None:
        for node in document["value"]["topology"]["nodes"].values():
            for name in ("host", "hypervisor", "labels"):
                del node[name]

    change(folder, older)
    assert state.load(folder) == known("one")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_state_that_others_could_have_written_is_not_used(runtime: Path, what: str) -> None:
    folder = make(runtime, "one")
    state.save(folder, known("one"))
    folder.chmod(0o755)  # in a folder that nobody else gets into, a file's mode lets nobody in
    judged = folder if what == "folder" else folder / state.STATE
    judged.chmod(judged.stat().st_mode | 0o022)
    with pytest.raises(LabctlError, match=f"{judged} can be written to by others") as told:
        state.load(folder)
    assert "chmod go-w" in told.value.hint


def test_a_state_that_belongs_to_another_user_is_not_used(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(runtime, "one")
    state.save(folder, known("one"))
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    monkeypatch.setattr(trusted, "TRUSTED", ())
    with pytest.raises(LabctlError, match="belongs to another user"):
        state.load(folder)
    assert not state.alive(folder)


def test_a_state_that_is_a_link_or_a_pipe_is_not_used(runtime: Path, tmp_path: Path) -> None:
    folder = make(runtime, "one")
    os.mkfifo(folder / state.STATE)
    with pytest.raises(LabctlError, match="is not a file"):
        state.load(folder)
    file = folder / state.STATE
    file.unlink()
    state.save(folder, known("one"))
    file.symlink_to(file.rename(tmp_path / "elsewhere"))
    with pytest.raises(LabctlError, match="cannot be read"):
        state.load(folder)


def test_no_process_is_ended_that_others_could_have_named(runtime: Path) -> None:
    folder = make(runtime, "one")
    folder.chmod(0o777)
    assert not state.alive(folder)
    teardown.end(folder)  # this very process is named in it
    assert not folder.exists()


@pytest.mark.parametrize(
    "more", [b'{"pid": 1, "mark": "2", "user": false, "of a newer labctl": [1]}']
)
def test_an_identity_of_a_newer_labctl_is_understood(more: bytes) -> None:
    assert Identity.told(more) == Identity(1, "2", user=False)


def test_a_lab_without_a_state_is_not_up_yet(runtime: Path) -> None:
    with pytest.raises(LabctlError, match="not up yet"):
        state.load(make(runtime, "one"))


def test_a_process_that_only_has_the_number_is_not_the_lab(runtime: Path) -> None:
    assert state.alive(make(runtime, "one"))
    assert not state.alive(make(runtime, "two", alive=False))
    assert not state.alive(runtime / "none")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": 1}', "7"])
def test_a_damaged_identity_is_a_dead_lab(runtime: Path, text: str) -> None:
    folder = make(runtime, "one")
    (folder / IDENTITY).write_text(text)
    assert not state.alive(folder)
    assert state.known() == [folder]
    assert status.describe(folder)["state"] == "dead"


def test_known_labs_are_all_those_with_a_mark(runtime: Path) -> None:
    (runtime / "no-lab").mkdir()
    (runtime / "file").touch()
    dead, host = make(runtime, "dead", alive=False), make(runtime, "host", host=True)
    assert state.known() == [dead, host]


def test_the_only_lab_needs_no_name(runtime: Path) -> None:
    with pytest.raises(UsageError, match="no lab is up"):
        state.find(None)
    one = make(runtime, "one")
    make(runtime, "dead", alive=False)
    assert state.find(None) == one
    two = make(runtime, "two")
    with pytest.raises(UsageError, match="several labs are up: one, two"):
        state.find(None)
    assert state.find("two") == two
    with pytest.raises(UsageError, match="no lab dead is up") as told:
        state.find("dead")
    assert "one, two" in told.value.hint


def test_a_directory_too_deep_for_sockets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", "/tmp")
    assert state.directory("short").name == "short"
    deep = tmp_path / ("d" * 90)
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(deep))
    with pytest.raises(UsageError, match="too long for the sockets") as told:
        state.directory("short")
    assert "LABCTL_RUNTIME_DIR" in told.value.hint


@pytest.mark.parametrize("over", [0, 1, 2])
def test_a_nodes_name_too_long_for_its_sockets_is_refused_before_anything_starts(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, over: int
) -> None:
    node = "n" * 56
    topology = from_mapping({"nodes": {"vm1": {}, node: {}}})
    longest = f"{runtime}/one/c/{node}.0123456789abcdef"
    monkeypatch.setattr(state, "SOCKET_LIMIT", len(longest) - over)
    if not over:
        preflight.check_sockets(topology, state.directory("one"))
        return
    monkeypatch.setattr(state, "creating", lambda _: pytest.fail("something was made"))
    much = f"the name {node} are {over} characters? too long"
    with pytest.raises(UsageError, match=much) as told:
        Lab.up(topology, name="one")
    assert "LABCTL_RUNTIME_DIR" in told.value.hint
    assert not (runtime / "one").exists()


# --- status -------------------------------------------------------------------------------------


def test_a_lab_without_a_state_is_coming_up(runtime: Path) -> None:
    folder = make(runtime, "one")
    assert status.describe(folder)["state"] == "coming up"
    state.save(folder, dataclasses.replace(known("one"), complete=False))
    assert status.describe(folder)["state"] == "coming up"


def test_a_lab_whose_guests_have_ended_is_damaged(runtime: Path) -> None:
    folder = make(runtime, "one")
    state.save(folder, known("one"))
    told = status.describe(folder)
    assert told["state"] == "damaged"
    assert {part["state"] for part in told["parts"] if part["is"] == "node"} == {"ended"}


@contextlib.contextmanager
def qemu(name: str) -> Iterator[int]:
    """Give the pid of a process whose command line is a little like that of a guest's QEMU."""
    words = ["sh", "-c", "read end", "qemu", "-name", f"guest={name},debug-threads=on"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        yield process.pid


def test_a_lab_whose_guests_run_is_up(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(runtime, "one")
    state.save(folder, known("one"))
    monkeypatch.setattr(linkstate, "troubles", lambda *_: {})
    pids = folder / "embed/run/qemu"
    pids.mkdir(parents=True)
    with qemu("vm1") as first, qemu("vm2") as second:
        for name, pid in (("vm1", first), ("vm2", second)):
            (pids / f"{name}.pid").write_text(f"{pid}\n")
        assert status.describe(folder)["state"] == "up"
        (pids / "vm2.pid").write_text(f"{first}")  # another process has got its number
        assert status.describe(folder)["state"] == "damaged"
        (pids / "vm2.pid").write_text("")
        assert status.describe(folder)["state"] == "damaged"


def test_a_lab_that_has_lost_a_link_is_damaged(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(runtime, "one")
    state.save(folder, known("one"))
    lost = {"vm1": {"eth0": "its TAP vm1-eth0 is down"}}
    monkeypatch.setattr(linkstate, "troubles", lambda *_: lost)
    monkeypatch.setattr(guest_state, "of_machine", lambda *_: guest_state.RUNNING)
    told = status.describe(folder)
    assert told["state"] == "damaged"
    parts = {part["name"]: part for part in told["parts"] if part["is"] == "node"}
    assert parts["vm1"]["links"] == lost["vm1"]
    assert parts["vm2"]["links"] == {}


def test_a_lab_that_goes_while_it_is_looked_at_is_dead(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(runtime, "one")
    state.save(folder, known("one"))

    def gone(*_: object) -> set[str]:
        raise FileNotFoundError(folder / "routers")

    monkeypatch.setattr(status, "_states", gone)
    assert status.describe(folder)["state"] == "dead"


# --- ending -------------------------------------------------------------------------------------


def test_a_dead_lab_leaves_nothing_when_it_is_ended(runtime: Path) -> None:
    folder = make(runtime, "dead", alive=False)
    teardown.end(folder)
    assert not folder.exists()
    teardown.end(folder)


def test_a_shared_lab_that_never_got_a_state_is_ended(runtime: Path) -> None:
    folder = make(runtime, "host", host=True)
    teardown.end(folder)
    assert not folder.exists()


def test_a_shared_lab_whose_state_cannot_be_read_is_kept(runtime: Path) -> None:
    folder = make(runtime, "host", host=True)
    (folder / state.STATE).write_bytes(b"\x80\x04N.")
    with pytest.raises(LabctlError, match=r"made here cannot be told: .* an older labctl") as t:
        teardown.end(folder)
    assert "\n" not in t.value.message
    assert f"rm -r {folder}" in t.value.hint
    assert state.known() == [folder]


def test_a_shared_lab_that_cannot_be_dismantled_is_kept_for_another_try(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(runtime, "host", host=True)
    state.save(folder, dataclasses.replace(known("host"), uri="qemu:///system"))

    def refuse(*_: object) -> None:
        raise LabctlError("a link cannot be removed")

    monkeypatch.setattr(SystemLibvirt, "remove", refuse)
    with pytest.raises(LabctlError, match="cannot be removed"):
        teardown.end(folder)
    assert state.known() == [folder]
    monkeypatch.setattr(SystemLibvirt, "remove", lambda *_: None)
    teardown.end(folder)
    assert not folder.exists()


def test_a_firewall_that_sees_bridged_packets_is_told_with_what_spares_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_libvirt, "BRIDGED", tmp_path)
    assert system_libvirt.firewall() == ""  # br_netfilter is not loaded
    for table, value in (("iptables", "1"), ("ip6tables", "0"), ("arptables", "1")):
        (tmp_path / f"bridge-nf-call-{table}").write_text(f"{value}\n")
    told = system_libvirt.firewall()
    assert "firewall sees what crosses bridges" in told
    assert told.endswith(
        "sysctl -w net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-arptables=0"
    )
