"""What is decided about Xen hosts and their guests before and while they run, without any."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from elf_files import DOM0_BUS, GUEST_NOTES, elf

from labctl.backends.dom0 import packed
from labctl.backends.embedded import Embedded
from labctl.backends.state import State
from labctl.errors import DeadlineError, GuestError, HostError, UsageError
from labctl.guests import ready
from labctl.guests.keys import Key
from labctl.guests.spec import Dom0 as Dom0Kernel
from labctl.guests.spec import Guest
from labctl.guests.ssh_retry import RetriedCommand
from labctl.images import Image
from labctl.lab import memory, node, preflight, xen_guests
from labctl.sandbox import codec
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import run
from labctl.topology import Topology, find, from_mapping, load
from labctl.topology.graph import find_path

EMBEDDED = Embedded("")

# --- the way through hosts and uplinks ----------------------------------------------------------


def named(topology: Topology, source: str, destination: str) -> list[str]:
    return [hop.name for hop in find_path(topology, source, destination).points]


def test_inside_one_host_every_hop_is_a_guest_or_in_its_dom0() -> None:
    bridged = load(find("xen-bridged"))
    assert named(bridged, "vm1", "vm2") == ["vm1:eth0", "vm1-eth0", "vm2-eth0", "vm2:eth0"]
    places = [
        (hop.inside, hop.context, hop.netns) for hop in find_path(bridged, "vm1", "vm2").points
    ]
    assert places == [
        (True, "vm1", ""), (False, "xen1", ""), (False, "xen1", ""), (True, "vm2", ""),
    ]  # fmt: skip


def test_a_router_in_dom0_is_observed_there() -> None:
    routed = load(find("xen-router-hop"))
    found = find_path(routed, "vm1", "vm2").points
    inside = [(hop.name, hop.context, hop.netns) for hop in found if hop.element == "r1"]
    assert inside == [
        ("r1-eth0", "xen1", ""),
        ("r1:eth0", "xen1", "r1"),
        ("r1:eth1", "xen1", "r1"),
        ("r1-eth1", "xen1", ""),
    ]


def test_an_uplink_is_crossed_from_dom0_to_its_tap_and_back() -> None:
    up = load(find("xen-uplink"))
    way = ["vm1:eth0", "vm1-eth0", "xen1:eth0", "xen1-eth0", "vm3-eth0", "vm3:eth0"]
    assert named(up, "vm1", "vm3") == way
    assert named(up, "vm3", "vm1") == way[::-1]
    uplink = {
        hop.name: (hop.in_guest, hop.at_bridge, hop.context, hop.dom0)
        for hop in find_path(up, "vm1", "vm3").points
        if hop.of_uplink
    }
    assert uplink == {
        "xen1:eth0": (True, False, "xen1", "xen1"),
        "xen1-eth0": (False, True, "", ""),
    }


def test_two_hosts_meet_outside() -> None:
    two = from_mapping(
        {
            "networks": {"lan": {}},
            "nodes": {
                "x": {"hypervisor": "xen", "interfaces": [{"network": "lan"}]},
                "y": {"hypervisor": "xen", "interfaces": [{"network": "lan"}]},
                "a": {"host": "x", "interfaces": [{"network": "lan"}]},
                "b": {"host": "y", "interfaces": [{"network": "lan"}]},
            },
        }
    )
    assert named(two, "a", "b") == [
        "a:eth0", "a-eth0", "x:eth0", "x-eth0", "y-eth0", "y:eth0", "b-eth0", "b:eth0",
    ]  # fmt: skip


def test_a_router_outside_joins_a_host_with_a_guest() -> None:
    far = from_mapping(
        {
            "networks": {"in": {}, "out": {}},
            "nodes": {
                "x": {"hypervisor": "xen", "interfaces": [{"network": "in"}]},
                "a": {"host": "x", "interfaces": [{"network": "in"}]},
                "b": {"interfaces": [{"network": "out"}]},
            },
            "routers": {"r": {"interfaces": [{"network": "in"}, {"network": "out"}]}},
        }
    )
    assert named(far, "a", "b")[2:4] == ["x:eth0", "x-eth0"]
    assert {hop.context for hop in find_path(far, "a", "b").points if hop.element == "r"} == {""}


@pytest.mark.parametrize(("source", "destination"), [("xen1", "vm1"), ("vm1", "xen1")])
def test_a_xen_host_is_no_end_of_a_way(source: str, destination: str) -> None:
    with pytest.raises(UsageError, match="xen1 is a Xen host"):
        find_path(load(find("xen-uplink")), source, destination)


def image(folder: Path, name: str, content: bytes, **more: Any) -> Image:
    kernel = folder / f"{name}-kernel"
    kernel.write_bytes(content)
    return Image(
        name=name, digest="ab" * 32, kernel=kernel, initramfs=folder / f"{name}.cpio",
        kernel_release="6.1", memory=96, size=1, built="2026-01-01T00:00:00+00:00", **more,
    )  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Image]:
    whole = elf(*GUEST_NOTES, tail=DOM0_BUS)
    xen = image(tmp_path, "xen-host", whole, hypervisor=tmp_path / "xen")
    return {"xen-host": xen, "micro": image(tmp_path, "micro", elf(*GUEST_NOTES))}


def with_kernel(topology: Topology, name: str, kernel: Path) -> Topology:
    changed = dataclasses.replace(topology.nodes[name], kernel=kernel)
    return dataclasses.replace(topology, nodes={**topology.nodes, name: changed})


@pytest.mark.parametrize(
    ("name", "notes", "why"),
    [
        ("vm1", (), "no support for Xen"),
        ("xen1", (), "no support for Xen"),
        ("xen1", GUEST_NOTES, "no support for being dom0"),
    ],
)
def test_a_kernel_without_support_is_refused_by_node_and_file(
    name: str,
    notes: tuple[tuple[bytes, int], ...],
    why: str,
    images: Mapping[str, Image],
    tmp_path: Path,
) -> None:
    topology = load(find("xen-bridged"))
    preflight.check(topology, images, EMBEDDED)
    own = tmp_path / "own"
    own.write_bytes(elf(*notes))
    with pytest.raises(UsageError, match=f"the kernel of {name}, {own}, has {why}") as told:
        preflight.check(with_kernel(topology, name, own), images, EMBEDDED)
    assert "CONFIG_XEN" in told.value.hint


def test_outside_of_xen_any_kernel_may_be_tried(
    images: Mapping[str, Image], tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.write_bytes(b"no kernel at all")
    preflight.check(with_kernel(load(find("xen-uplink")), "vm3", own), images, EMBEDDED)


def test_a_host_without_a_hypervisor_is_refused(images: dict[str, Image]) -> None:
    images["xen-host"] = dataclasses.replace(images["xen-host"], hypervisor=None)
    with pytest.raises(UsageError, match="the image xen-host of xen1 holds no hypervisor"):
        preflight.check(load(find("xen-bridged")), images, EMBEDDED)


# --- memory -------------------------------------------------------------------------------------


def test_a_node_with_less_than_its_image_takes_is_refused(images: dict[str, Image]) -> None:
    images["micro"] = dataclasses.replace(images["micro"], memory=200)
    with pytest.raises(UsageError, match="vm1 has 128 MiB; its image micro needs 200 to boot"):
        preflight.check(load(find("xen-bridged")), images, EMBEDDED)


def test_of_a_xen_host_only_what_is_used_counts() -> None:
    bridged = load(find("xen-bridged"))
    assert bridged.nodes["xen1"].memory == 2048
    assert memory.needed(bridged) == 512 + 128 + 2 * 128 + memory.QEMU_MEMORY
    both = load(find("xen-uplink"))
    assert memory.needed(both) == 512 + 128 + 2 * 128 + 2 * memory.QEMU_MEMORY


@pytest.mark.parametrize(("free", "swap", "fits"), [(900, 0, False), (900, 400, True)])
def test_a_host_without_room_gets_one_clear_line(
    free: int,
    swap: int,
    fits: bool,
    images: Mapping[str, Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = tmp_path / "meminfo"
    told.write_text(
        f"MemTotal: 9999999 kB\nMemAvailable: {free << 10} kB\nSwapFree: {swap << 10} kB\nHuge: 0\n"
    )
    monkeypatch.setattr(memory, "MEMINFO", told)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    topology = load(find("xen-bridged"))
    if fits:
        preflight.check(topology, images, EMBEDDED)
        return
    with pytest.raises(
        HostError, match=r"^xen-bridged takes about 1056 MiB of memory, and this host has 900 left$"
    ) as error:
        preflight.check(topology, images, EMBEDDED)
    assert error.value.hint


def test_a_containers_limit_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = memory.free()
    for group in (tmp_path, *(tmp_path / path.lstrip("/") for path in own_groups())):
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.max").write_text(f"{300 << 20}\n")
        (group / "memory.current").write_text(f"{200 << 20}\n")
        (group / "memory.stat").write_text(f"anon 5\ninactive_file {50 << 20}\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    assert memory.free() == (150 if own_groups() else unlimited)


def own_groups() -> list[str]:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return [line.removeprefix("0::") for line in lines if line.startswith("0::")]


# --- what the parts are made of -----------------------------------------------------------------


def known(images: Mapping[str, Image], topology: Topology) -> State:
    return State(
        name="one", topology=topology, accel="tcg",
        images={one.name: images[one.image] for one in topology.nodes.values()},
        client=Key.make(), hostkeys={name: Key.make() for name in topology.nodes}, uri="",
        started="now", complete=True,
    )  # fmt: skip


def test_a_host_is_given_its_bridges_uplinks_and_its_guests_files(
    images: Mapping[str, Image], tmp_path: Path
) -> None:
    topology = load(find("xen-uplink"))
    one = known(images, topology)
    host = xen_guests.host_guest(one, topology.nodes["xen1"], "xen1", tmp_path)
    assert [nic.tap for nic in host.nics] == ["xen1-eth0", "xen1-mgmt"]
    assert host.drives == (images["micro"].kernel, images["micro"].initramfs)
    assert host.dom0
    assert host.dom0.kernel == images["xen-host"].kernel
    assert host.config
    told = host.config.read_text()
    assert "\nbridge lan 1500\n" in told
    assert f"port {topology.nodes['xen1'].interfaces[0].mac} eth0 1500 lan\n" in told


def test_dom0_is_told_of_its_uplinks_mtu_offloads_and_routes(
    images: Mapping[str, Image], tmp_path: Path
) -> None:
    uplink = {
        "network": "lan",
        "mtu": 1400,
        "addresses": ["10.0.0.9/24"],
        "offload": {"guest": {"gro": False}},
    }
    topology = from_mapping(
        {
            "defaults": {"offload": {"guest": {"tx": False}}},
            "networks": {"lan": {"mtu": 9000}},
            "nodes": {
                "x1": {
                    "hypervisor": "xen",
                    "interfaces": [uplink],
                    "routes": [{"to": "default", "via": "10.0.0.1"}],
                },
                "vm1": {"host": "x1", "interfaces": [{"network": "lan"}]},
            },
        }
    )
    x1 = topology.nodes["x1"]
    told = xen_guests.host_guest(known(images, topology), x1, "x1", tmp_path).config
    assert told
    lines = told.read_text().splitlines()
    assert "bridge lan 9000 10.0.0.9/24" in lines
    assert f"port {x1.interfaces[0].mac} eth0 1400 lan" in lines
    assert "route 0.0.0.0/0 10.0.0.1" in lines
    assert "offload eth0 generic-receive-offload off tx-checksumming off" in lines


def test_a_guest_is_told_of_its_interfaces_and_peers(
    images: Mapping[str, Image], tmp_path: Path
) -> None:
    topology = load(find("xen-router-hop"))
    guest = xen_guests.xen_guest(known(images, topology), topology.nodes["vm1"], tmp_path)
    assert guest.bridges == {"vm1-eth0": "left", "vm1-mgmt": "mgmt"}
    assert [nic.model for nic in guest.guest.nics] == ["xen", "xen"]
    assert "host vm1\n" in guest.lines
    assert "peer 10.0.2.2 vm2\n" in guest.lines
    assert "route 10.0.2.0/24 10.0.1.254\n" in guest.lines


def test_dom0_is_given_what_its_functions_import_and_no_more() -> None:
    with tarfile.open(fileobj=io.BytesIO(packed()), mode="r:gz") as tar:
        names = {name for name in tar.getnames() if "__pycache__" not in name}
    needed = {"sandbox/agent.py", "network/links.py", "routers/raw.py", "routers/namespace.py"}
    assert {f"labctl/{name}" for name in needed} < names
    assert "pyroute2/__init__.py" in names
    rooms = {name.split("/")[1] for name in names if name.startswith("labctl/")}
    assert not rooms & {"cli", "lab", "capture", "guests", "experiments"}


def test_dom0s_programs_start_from_what_it_is_given_alone(tmp_path: Path) -> None:
    subprocess.run(["tar", "-xzf", "-", "-C", str(tmp_path)], input=packed(), check=True)
    done = subprocess.run(
        [sys.executable, "-P", "-S", "-m", "labctl.routers.raw", "--help"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--vnet" in done.stdout


# --- what ends meanwhile ------------------------------------------------------------------------


class Clock:
    """Time that goes by as fast as a test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


class Quiet:
    """A process that never ends by itself."""

    def poll(self) -> int | None:
        return None


def ended() -> None:
    raise GuestError("the Xen host xen1 has ended")


def test_who_waits_for_a_program_hears_that_its_machine_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    process: Any = Quiet()
    begun = RetriedCommand(lambda: process, lambda: True, ended)
    assert begun.poll() is None  # not at every look: it costs something
    clock.now += 2
    with pytest.raises(GuestError, match="xen1 has ended"):
        begun.poll()
    with pytest.raises(GuestError, match="xen1 has ended"):
        begun.finish(Deadline(100, "ending it"))


class Answers:
    """An agent whose commands end as a test says, after some looks at them."""

    def __init__(self, end: Exception, looks: int) -> None:
        self._end = end
        self._looks = looks

    def agent(self) -> Answers:
        return self

    def run(self, *_: Any, watch: Any, **__: Any) -> Any:
        for _look in range(self._looks):
            watch()
        raise self._end


def one_node(sandbox: Any, check: Any, folder: Path) -> node.Node:
    topology = load(find("xen-bridged"))
    return node.Node(sandbox, folder, topology.nodes["vm1"], check)


def test_dom0_is_asked_rarely_and_at_last_when_a_command_took_too_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = Clock(monkeypatch)
    asked: list[bool] = []

    def check(ask: bool) -> None:
        asked.append(ask)
        clock.now += 4
        if len(asked) == 6:
            raise GuestError("vm1 has ended")

    vm1 = one_node(Answers(DeadlineError("too long"), 5), check, tmp_path)
    with pytest.raises(GuestError, match="vm1 has ended"):
        vm1.run("sleep 100")
    assert asked == [False, False, False, True, False, True]


def test_a_command_too_slow_in_a_guest_that_lives_is_told_as_that(tmp_path: Path) -> None:
    vm1 = one_node(Answers(DeadlineError("too long"), 0), lambda _ask: None, tmp_path)
    with pytest.raises(DeadlineError, match="too long"):
        vm1.run("sleep 100")


def test_a_watched_program_is_killed_when_waiting_is_pointless() -> None:
    with pytest.raises(GuestError, match="xen1 has ended"):
        run(["sleep", "1000"], deadline=Deadline(1000, "a stage"), watch=ended)


def test_a_watched_program_has_its_input_and_output_whole() -> None:
    looked = threading.Event()
    data = bytes(range(256)) * 4096
    code = "head -c 1000; sleep 1.5; cat"
    result = run(
        ["sh", "-c", code], deadline=Deadline(60, "it"), stdin=data.hex().encode(), watch=looked.set
    )
    same = result.stdout == data.hex()  # not to be shown
    assert same
    assert looked.is_set()


def test_a_deadline_travels_as_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    packed_up = codec.dumps(Deadline(100, "a stage"), Deadline)
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)  # another machine, just started
    there: Deadline = codec.loads(packed_up, Deadline)
    assert 0 < there.left <= 100
    assert there.stage == "a stage"


# --- what a console tells while a host boots ----------------------------------------------------


def host(folder: Path, said: str) -> Guest:
    log = folder / "xen1.log"
    log.write_bytes(said.encode())
    return Guest(
        name="xen1", domain="xen1", memory=1024, vcpus=2, kernel=Path("/i/xen"),
        initramfs=Path("/i/dom0.cpio"), cmdline="", nics=(), console=folder / "s", log=log,
        dom0=Dom0Kernel(Path("/i/vmlinux"), ""),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "alive", "why"),
    [
        (
            "labctl: error: xenstored does not start\r\n",
            True,
            "could not take its configuration: xenstored does not start",
        ),
        (
            "[    1.0] Kernel panic - not syncing: VFS: no root\r\n",
            True,
            "died while booting: kernel panic: VFS: no root;",
        ),
        (
            "(XEN) ***\r\n(XEN) Panic on CPU 0:\r\n(XEN) Could not construct d0\r\n(XEN) ***\r\n",
            False,
            "died while booting: Xen panicked: Could not construct d0;",
        ),
        ("(XEN) Xen version\r\n", False, "xen1 died while booting; its console"),
    ],
)
def test_a_host_that_fails_to_boot_is_given_up_at_once_with_its_reason(
    said: str, alive: bool, why: str, tmp_path: Path
) -> None:
    with pytest.raises(GuestError, match=why) as told:
        ready.wait_ready(lambda: alive, host(tmp_path, said), tmp_path, threading.Event())
    assert said.splitlines()[-1].strip() in told.value.detail
    assert told.value.hint


def test_half_a_line_of_trouble_is_waited_for(tmp_path: Path) -> None:
    guest = host(tmp_path, "labctl: error: xensto")
    with pytest.raises(GuestError, match="died while booting"):  # of that it is sure
        ready.wait_ready(lambda: False, guest, tmp_path, threading.Event())
