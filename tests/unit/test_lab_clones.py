"""Which guests are clones, what they are told, and what happens where one cannot be."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from labctl.backends.state import State
from labctl.errors import HostError
from labctl.events import Event
from labctl.guests import clone, driver, keys, ready, spec, template, tools
from labctl.guests.spec import Clone, Guest, Saved
from labctl.images import Image, templates
from labctl.images.templates import Template
from labctl.lab import machines, memory
from labctl.lab import templates as chosen
from labctl.topology import Topology, from_mapping
from labctl.topology.model import Node

NOWHERE = Saved(Path("memory"), "m", Path("state"), "s")
IMAGE = Image("micro", "d" * 64, Path("kernel"), Path("initramfs"), "6.1", 128, 1, "")
TEMPLATE = Template("k" * 32, "micro", IMAGE.digest, 128, "m", "s")


def lab(**node: Any) -> Topology:
    nodes = {
        name: {"interfaces": [{"network": "lan", "addresses": [f"10.0.0.{number}/24"]}], **node}
        for number, name in enumerate(("vm1", "vm2", "vm3"), 1)
    }
    return from_mapping({"networks": {"lan": {}}, "nodes": nodes})


def a_node(**given: Any) -> Node:
    return lab(**given).nodes["vm1"]


# --- which --------------------------------------------------------------------------------------


def test_guests_of_images_may_be_clones_and_those_of_own_kernels_if_they_say_so() -> None:
    plain = a_node()
    own = dataclasses.replace(plain, kernel=Path("bzImage"))
    also = dataclasses.replace(plain, initramfs=Path("initramfs"))
    assert chosen.may_be_clone(plain)
    assert not chosen.may_be_clone(dataclasses.replace(plain, clone=False))
    for one in (own, also):
        assert not chosen.may_be_clone(one)
        assert chosen.may_be_clone(dataclasses.replace(one, clone=True))


def test_xen_hosts_and_their_guests_boot() -> None:
    node = dataclasses.replace(a_node(), clone=True)
    assert chosen.may_be_clone(node)
    assert not chosen.may_be_clone(dataclasses.replace(node, hypervisor="xen"))
    assert not chosen.may_be_clone(dataclasses.replace(node, host="xen1"))


def test_a_guest_with_more_nics_than_a_bus_has_room_for_boots() -> None:
    node = a_node()
    many = dataclasses.replace(node, interfaces=node.interfaces * (chosen.MOST_NICS + 1))
    assert not chosen.may_be_clone(many)


@pytest.mark.parametrize(("value", "cold"), [("", False), ("0", False), ("1", True)])
def test_the_user_can_have_every_guest_boot(
    value: str, cold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(chosen.COLD, value)
    assert chosen.cold(False) is cold
    assert chosen.cold(True)


def test_clone_in_a_topology_is_inherited_and_makes_no_other_digest() -> None:
    nodes = {"a": {}, "b": {"clone": True}}
    found = from_mapping({"defaults": {"clone": False}, "nodes": nodes})
    assert (found.nodes["a"].clone, found.nodes["b"].clone) == (False, True)
    assert lab().nodes["vm1"].clone is None
    assert lab(clone=False).digest() == lab().digest() == lab(clone=True).digest()


# --- what a template is of -----------------------------------------------------------------------

GUEST = Guest(
    name="template", domain="template", memory=128, vcpus=1, kernel=Path("k"),
    initramfs=Path("i"), cmdline="quiet", nics=(), console=Path("c"), log=Path("l"),
)  # fmt: skip
NIC = spec.Nic("eth0", "tap", "52:54:00:00:00:01", "virtio", {"csum": False})


def shape(monkeypatch: pytest.MonkeyPatch, guest: Guest, accel: spec.Accel = "tcg") -> list[str]:
    monkeypatch.setattr(template, "EMULATOR", __file__)
    return template.shape(guest, accel)


@pytest.mark.parametrize(
    "change",
    [{"memory": 256}, {"vcpus": 2}, {"cmdline": "loud"}, {"cpu": "Nehalem"}, {"nics": (NIC,)}],
    ids=lambda change: next(iter(change)),
)
def test_a_guest_of_another_machine_has_another_template(
    change: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(GUEST, **change)
    assert shape(monkeypatch, other) != shape(monkeypatch, GUEST)
    assert shape(monkeypatch, GUEST, "kvm") != shape(monkeypatch, GUEST)


def test_guests_that_differ_in_what_they_are_told_have_one_template(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def of(name: str, mac: str, **device: bool) -> Guest:
        nic = dataclasses.replace(NIC, tap=f"{name}-eth0", mac=mac, device=device)
        return dataclasses.replace(GUEST, nics=(nic,), console=Path(name), log=Path(name))

    one = of("vm1", "52:54:00:00:00:01", csum=False)
    other = of("vm2", "52:54:00:00:00:02", gso=True)
    assert shape(monkeypatch, one) == shape(monkeypatch, other)


def test_a_nic_of_another_model_is_no_part_of_a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by a scan of the bus; but the slots of the others are where they are."""
    real = dataclasses.replace(NIC, model="e1000")
    first, last = (real, NIC), (NIC, real)
    shapes = [shape(monkeypatch, dataclasses.replace(GUEST, nics=nics)) for nics in (first, last)]
    assert shapes[0] != shapes[1]
    alone = shape(monkeypatch, dataclasses.replace(GUEST, nics=(NIC,)))
    assert shapes[1] == alone


# --- what a clone is told ------------------------------------------------------------------------


def lines_of(node: str) -> str:
    topology = lab()
    known = {name: keys.Key.make() for name in topology.nodes}
    return spec.boot_lines(topology, topology.nodes[node], keys.Key.make(), known, known)


def test_a_clone_is_told_all_that_a_booted_guest_is_told() -> None:
    lines = lines_of("vm1")
    own, peers = spec.part_peers(lines)
    assert sorted([*own.splitlines(), *peers.splitlines()]) == sorted(lines.splitlines())
    words = {line.split()[0] for line in own.splitlines()}
    assert words == {"host", "hostkey", "clientkey", "authorized", "iface"}
    assert own.count("authorized ") == 1, "labctl's own key"
    assert not any(word in peers for word in ("hostkey", "clientkey", "iface"))


def test_a_shell_puts_what_is_known_of_peers_where_a_booted_guest_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = lines_of("vm1")
    files = {word: str(tmp_path / word) for word in spec.PEER_FILES}
    monkeypatch.setattr(spec, "PEER_FILES", files)
    script = spec.peers_script(spec.part_peers(lines)[1])
    subprocess.run(["/bin/sh", "-e"], input=script.encode(), check=True, env={"PATH": ""})
    for word, file in files.items():
        wanted = [
            line.partition(" ")[2] for line in lines.splitlines() if line.startswith(f"{word} ")
        ]
        assert Path(file).read_text().splitlines() == wanted[word == "authorized" :]


@pytest.mark.parametrize("count", [0, 1, 100])
def test_the_first_command_of_a_clone_tells_it_of_its_peers(count: int) -> None:
    peers = "".join(f"peer 10.0.0.{number} vm{number}\n" for number in range(count))
    guest = dataclasses.replace(GUEST, clone=Clone(NOWHERE, "", peers))
    line, script = ready.first_words(guest)
    told = f"{line}\n{script.decode()}"
    assert len(line) < 9000, "dropbear takes no longer one"
    assert all(f"10.0.0.{number} vm{number}" in told for number in range(count))
    assert told.rstrip().endswith(tools.QUESTION)
    assert ready.first_words(GUEST) == (tools.QUESTION, b"")


def test_a_clone_is_woken_with_the_time_new_random_bytes_and_its_configuration(
    tmp_path: Path,
) -> None:
    heard = []
    for number in range(2):
        place = tmp_path / f"{number}.sock"
        guest = dataclasses.replace(GUEST, console=place, clone=Clone(NOWHERE, "host vm1\n"))
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(place))
            server.listen()
            clone._wake(guest).close()
            with server.accept()[0].makefile("rb") as line:
                heard.append((line.readline().split(), line.read()))
    for head, rest in heard:
        word, seconds, nanoseconds, seed, length = head
        assert word == b"labctl"
        assert abs(int(seconds) + int(nanoseconds) / 1e9 - time.time()) < 600
        assert len(seed) == 2 * clone.SEED
        assert rest == b"host vm1\n"
        assert int(length) == len(rest)
    assert heard[0][0][3] != heard[1][0][3]


def test_no_key_is_shown_with_a_clone() -> None:
    assert "secret" not in repr(Clone(NOWHERE, "hostkey secret\n", "known secret\n"))


# --- doubts --------------------------------------------------------------------------------------


class Sandbox:
    """A lab's sandbox, whose agent answers as a test says."""

    def __init__(self, directory: Path, answers: Mapping[Callable[..., Any], Any]) -> None:
        self.directory = directory
        self.answers = answers
        self.asked: list[tuple[Callable[..., Any], list[str]]] = []

    def agent(self) -> Sandbox:
        return self

    def call_with_events(
        self, function: Callable[..., Any], _to: object, guests: Sequence[Guest], *_: Any, **__: Any
    ) -> Any:
        self.asked.append((function, [guest.name for guest in guests]))
        for guest in guests:
            guest.log.parent.mkdir(exist_ok=True)
            guest.log.write_text("a word")
        return self.answers.get(function)


def start(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    doubts: Mapping[str, clone.Doubt],
    has_template: Sequence[str] = ("vm1", "vm2"),
    **state: Any,
) -> tuple[Sandbox, dict[str, str], list[Event]]:
    topology = lab()
    known = {name: keys.Key.make() for name in topology.nodes}
    monkeypatch.setattr(
        chosen,
        "find",
        lambda _making, guests: {one.name: TEMPLATE for one in guests if one.name in has_template},
    )
    (directory / "initramfs").write_bytes(b"")
    image = dataclasses.replace(IMAGE, initramfs=directory / "initramfs")
    told: list[Event] = []
    sandbox = Sandbox(directory, {clone.start: dict(doubts), driver.start: {}})
    lab_state = State(
        name="x", topology=topology, accel="tcg", images=dict.fromkeys(topology.nodes, image),
        client=keys.Key.make(), hostkeys=known, clients=known, uri="", started="",
        complete=False, **state,
    )  # fmt: skip
    making = machines.Making(sandbox, lab_state, told.append)  # type: ignore[arg-type]
    nodes = [(node, machines.build(making, node)) for node in topology.nodes.values()]
    return sandbox, machines.start(making, nodes), told


def test_guests_without_a_template_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox, starts, told = start(tmp_path, monkeypatch, {})
    assert sandbox.asked == [(clone.start, ["vm1", "vm2"]), (driver.start, ["vm3"])]
    assert starts == {"vm1": "cloned", "vm2": "cloned", "vm3": "booted"}
    assert told == []


def test_cold_asks_for_no_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox, starts, _ = start(tmp_path, monkeypatch, {}, cold=True)
    assert sandbox.asked == [(driver.start, ["vm1", "vm2", "vm3"])]
    assert set(starts.values()) == {"booted"}


def test_a_clone_in_doubt_boots_and_one_line_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[str] = []
    monkeypatch.setattr(templates, "forget", forgotten.append)
    doubts = {"vm2": clone.Doubt("it went astray", template=False)}
    sandbox, starts, told = start(tmp_path, monkeypatch, doubts)
    assert sandbox.asked[1] == (driver.start, ["vm2", "vm3"])
    assert starts == {"vm1": "cloned", "vm2": "booted", "vm3": "booted"}
    assert [(one.stage, one.subject, one.state, one.detail) for one in told] == [
        ("clone", "vm2", "failed", "it boots instead: it went astray")
    ]
    assert forgotten == []
    kept = sorted(file.name for file in (tmp_path / "console").iterdir())
    assert kept == ["vm1.log", "vm2.1.log", "vm2.log", "vm3.log"]


def test_a_template_in_doubt_is_made_anew_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[str] = []
    monkeypatch.setattr(templates, "forget", forgotten.append)
    doubts = {"vm1": clone.Doubt("its memory is not what was saved", template=True)}
    start(tmp_path, monkeypatch, doubts)
    assert forgotten == [TEMPLATE.key]


def test_a_clone_in_doubt_does_not_boot_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free", lambda: 100)
    with pytest.raises(HostError, match="takes about 288 MiB"):
        start(tmp_path, monkeypatch, {}, ("vm1", "vm2"))
    assert set(start(tmp_path, monkeypatch, {}, ("vm1", "vm2", "vm3"))[1].values()) == {"cloned"}


def test_clones_are_counted_as_what_they_take_and_share() -> None:
    topology = lab()
    all_boot = memory.needed(topology)
    assert all_boot == 3 * (128 + memory.QEMU_MEMORY)
    clones = memory.needed(topology, {"vm1", "vm2"})
    assert clones == 128 + 2 * memory.CLONE_MEMORY + 128 + memory.QEMU_MEMORY


# --- waiting -------------------------------------------------------------------------------------


def test_one_guest_that_does_not_get_ready_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    told: list[Event] = []

    def make(guest: Guest, lap: ready.Lap) -> Callable[[], bool]:
        lap("created")
        if guest.name == "b":
            raise OSError("no")
        return lambda: True

    monkeypatch.setattr(ready, "wait_ready", lambda *_: None)
    guests = [dataclasses.replace(GUEST, name=name) for name in "abc"]
    note = lambda guest, _error: failed.append(guest.name)  # noqa: E731
    driver.boot(guests, make, tmp_path, told.append, note)
    assert failed == ["b"]
    done = {one.subject for one in told if one.state == "done"}
    assert done == {"a", "c"}
    stages = [one for one in told if one.stage == driver.STAGES]
    assert {one.subject for one in stages} == {"a", "c"}
    assert all(one.detail.startswith("created=") for one in stages)


def test_a_console_that_grows_is_noticed(tmp_path: Path) -> None:
    from labctl.guests import console

    log = tmp_path / "log"
    log.touch()
    with console.Growth(log) as growth:
        timer = threading.Timer(0.05, lambda: log.write_text("a word"))
        timer.start()
        growth.wait(60)  # without the word it would take a minute
        timer.join()
        assert log.read_text() == "a word"
    with console.Growth(tmp_path / "none") as growth:
        growth.wait(0.01)
