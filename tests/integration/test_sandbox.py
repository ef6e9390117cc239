"""Worlds for real: what is in them, how they end, and that nothing of them stays."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

import labctl
from labctl.errors import LabctlError
from labctl.network import links
from labctl.sandbox import namespaces, owned
from labctl.sandbox.base import Process
from labctl.sandbox.client import Agent
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.namespaces import Space
from labctl.topology import find, load

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

MAKER = """
import sys, time
from pathlib import Path
from labctl.sandbox.namespaces import Space
world = Space.create(Path(sys.argv[1]))
if "keep" in sys.argv: world.keep()
print(world.identity.pid, flush=True)
time.sleep(1000)
"""


def soon() -> Deadline:
    return Deadline(30, "a test")


def host_links() -> set[str]:
    with IPRoute() as ip:
        return {link.get_attr("IFLA_IFNAME") for link in ip.get_links()}


def host_mounts() -> int:
    return len(Path("/proc/self/mountinfo").read_text().splitlines())


def gone(pid: int) -> None:
    """Wait until a process is gone."""
    limit = soon()
    while namespaces.start_ticks(pid) != -1:
        limit.pause(0.01)


def vanished(path: Path) -> None:
    limit = soon()
    while path.exists():
        limit.pause(0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a world may be made; whatever is left of it is ended."""
    path = tmp_path / "w"
    before = (host_links(), host_mounts())
    yield path
    namespaces.end(path)
    assert (host_links(), host_mounts()) == before


@pytest.fixture
def world(folder: Path) -> Iterator[Space]:
    made = Space.create(folder)
    yield made
    made.end()


# --- what is in it ------------------------------------------------------------------------------


def test_a_world_has_processes_links_and_run_of_its_own(world: Space) -> None:
    agent = world.agent()
    assert agent.run(["readlink", "/proc/1/exe"], soon()).stdout.strip() == os.path.realpath(
        sys.executable
    )
    assert int(agent.run(["sh", "-c", "echo $$"], soon()).stdout) < 1000
    assert [link.name for link in world.call(links.links)] == ["lo"]
    assert world.call(links.links)[0].up
    assert {"netns"} <= set(agent.run(["ls", "/run"], soon()).stdout.split()) <= {"netns", "mount"}
    assert Path("/run").is_dir()
    assert oct(world.directory.stat().st_mode & 0o777) == "0o700"


def test_what_is_mounted_inside_stays_inside(world: Space, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    world.agent().run(["mount", "-t", "tmpfs", "x", str(tmp_path / "m")], soon())
    world.agent().run(["touch", str(tmp_path / "m" / "file")], soon())
    assert list((tmp_path / "m").iterdir()) == []


def test_the_user_libvirt_looks_for_has_a_name_inside(world: Space) -> None:
    told = world.agent().run(["getent", "passwd", "libvirt-qemu", "root"], soon()).stdout
    assert "libvirt-qemu:" in told
    assert "root:" in told
    assert world.agent().run(["getent", "group", "libvirt-qemu"], soon()).ok
    assert host_mounts() == len(Path("/proc/self/mountinfo").read_text().splitlines())


def test_a_directory_below_run_is_seen_inside_at_its_own_path(tmp_path: Path) -> None:
    path = Path(f"/run/labctl-test-{os.getpid()}")
    world = Space.create(path)
    try:
        (path / "from-outside").write_text("x")
        assert world.agent().run(["cat", str(path / "from-outside")], soon()).stdout == "x"
        world.agent().run(["touch", str(path / "from-inside")], soon())
        assert (path / "from-inside").exists()
    finally:
        world.end()
    assert not path.exists()
    assert tmp_path.exists()


def test_named_namespaces_of_the_world_can_be_entered(world: Space) -> None:
    create = "from pyroute2 import netns; netns.create('r1')"
    world.agent().run([sys.executable, "-c", create], soon())
    assert not Path("/run/netns/r1").exists()
    enter = world.enter(netns="r1")
    listed = subprocess.run([*enter, "cat", "/proc/net/dev"], capture_output=True, check=True)
    assert [line.split()[0] for line in listed.stdout.decode().splitlines()[2:]] == ["lo:"]
    assert [link.name for link in world.call(links.links, "r1")] == ["lo"]
    with pytest.raises(LabctlError, match="No such file"):
        world.call(links.links, "r2")
    assert world.agent().run(["ls", "/run/netns"], soon()).stdout == "r1\n"


def test_orphans_are_reaped(world: Space) -> None:
    # Each shell leaves a child behind that PID 1 inherits; none may stay as a zombie.
    many = "for i in $(seq 50); do (sleep 0.01 &) ; done"
    world.agent().run(["sh", "-c", many], soon())
    limit = soon()
    while True:
        every = ["sh", "-c", "cat /proc/[0-9]*/stat"]
        states = world.agent().run(every, soon(), check=False).stdout
        assert "\n1 (" in f"\n{states}", "it sees PID 1, so it would see what is left"
        left = [line for line in states.splitlines() if "(sleep)" in line]
        if not left:
            break
        limit.pause(0.05)


def test_a_world_tells_which_of_its_processes_run(world: Space, tmp_path: Path) -> None:
    program = Process.start(
        world.agent(), ["sleep", "1000"], stdout=tmp_path / "o", stderr=tmp_path / "e"
    )
    assert world.runs(program.pid)
    assert world.runs(program.pid, "sleep 1000")
    assert not world.runs(program.pid, "labctl.routers.raw")
    program.kill(signal.SIGKILL)
    program.finish(soon())
    assert not world.runs(program.pid)
    assert not world.runs(999_999)


# --- coming and going ---------------------------------------------------------------------------


def test_two_worlds_with_the_same_names_do_not_meet(folder: Path, tmp_path: Path) -> None:
    topology = load(find("bridged"))
    one = Space.create(folder)
    two = Space.create(tmp_path / "w2")
    try:
        for world in (one, two):
            world.call(links.build, topology)
        assert one.call(links.links) != []
        assert {link.name for link in one.call(links.links)} == {
            link.name for link in two.call(links.links)
        }
    finally:
        two.end()
        one.end()


def test_a_directory_that_exists_is_not_taken_over(folder: Path) -> None:
    folder.mkdir()
    (folder / "precious").touch()
    with pytest.raises(FileExistsError):
        Space.create(folder)
    assert (folder / "precious").exists()
    shutil.rmtree(folder)


def test_a_later_process_enters_and_ends_a_kept_world(folder: Path) -> None:
    made = Space.create(folder)
    made.keep()
    made.close()
    again = Space.attach(folder)
    assert again.identity == made.identity
    assert [link.name for link in again.call(links.links)] == ["lo"]
    again.end()
    assert not folder.exists()
    gone(made.identity.pid)
    with pytest.raises(FileNotFoundError):
        Space.attach(folder)


def maker(folder: Path, *words: str) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", MAKER, str(folder), *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, int(process.stdout.readline())


def test_an_unkept_world_ends_with_its_maker(folder: Path) -> None:
    process, pid = maker(folder)
    process.kill()
    process.wait()
    vanished(folder)
    gone(pid)


def test_a_kept_world_outlives_its_maker(folder: Path) -> None:
    process, pid = maker(folder, "keep")
    process.kill()
    process.wait()
    world = Space.attach(folder)
    assert world.identity.pid == pid
    assert world.agent().run(["true"], soon()).ok
    world.end()
    assert not folder.exists()


@pytest.mark.parametrize("moment", range(6))
def test_a_maker_killed_at_any_moment_leaves_nothing(folder: Path, moment: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", MAKER, str(folder)], stdout=subprocess.PIPE)
    limit = soon()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not children.read_text():  # before that there is only a folder, which the next up sweeps
        limit.pause(0.001)
    Deadline(30, "a moment").pause(moment * 0.015)
    process.kill()
    process.wait()
    assert process.stdout
    process.stdout.close()
    vanished(folder)


@pytest.mark.parametrize("victim", ["init", "unshare"])
def test_a_world_whose_first_process_is_killed_is_dead_and_can_be_ended(
    folder: Path, victim: str
) -> None:
    world = Space.create(folder)
    world.keep()
    world.call(links.build, load(find("bridged")))
    pid = world.identity.pid
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(pid if victim == "init" else parent, signal.SIGKILL)
    gone(pid)
    with pytest.raises(LabctlError):
        world.agent().run(["true"], soon())
    with pytest.raises(LabctlError, match="has ended"):
        Space.attach(folder)
    world.end()
    assert not folder.exists()


def test_everything_inside_dies_with_the_world(world: Space, tmp_path: Path) -> None:
    Process.start(
        world.agent(),
        ["sh", "-c", "trap '' TERM HUP INT; sleep 1000"],
        stdout=tmp_path / "o",
        stderr=tmp_path / "e",
        detached=True,
    )
    children = Path(f"/proc/{world.identity.pid}/root/proc")
    inside = [entry for entry in children.iterdir() if entry.name.isdigit()]
    assert len(inside) >= 2
    handle = os.pidfd_open(world.identity.pid)
    world.end()
    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(handle, 0)
    os.close(handle)


def test_ending_twice_or_from_two_sides_is_no_error(folder: Path) -> None:
    world = Space.create(folder)
    world.keep()
    threads = [threading.Thread(target=namespaces.end, args=(folder,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not folder.exists()
    world.end()


def test_a_directory_that_its_pid_1_is_just_removing_is_no_world_elsewhere(folder: Path) -> None:
    owned.make(folder)  # with its mark, and what told of the world is gone already
    removing = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(removing, fcntl.LOCK_EX)
    timer = threading.Timer(0.3, os.close, (removing,))
    timer.start()
    namespaces.end(folder)
    timer.join()
    assert not folder.exists()


def test_another_process_of_the_same_number_is_left_alone(folder: Path) -> None:
    owned.make(folder)
    with subprocess.Popen(["sleep", "1000"]) as innocent:
        try:
            identity = {"pid": innocent.pid, "mark": "1000", "user": False}
            (folder / namespaces.IDENTITY).write_text(json.dumps(identity))
            namespaces.end(folder)
            assert not folder.exists()
            assert innocent.poll() is None
        finally:
            innocent.kill()


def test_keeping_a_world_that_has_ended_is_an_error(folder: Path) -> None:
    world = Space.create(folder)
    os.kill(world.identity.pid, signal.SIGKILL)
    gone(world.identity.pid)
    with pytest.raises(LabctlError, match="went down"):
        world.keep()


# --- as an ordinary user ------------------------------------------------------------------------

AS_USER = """
import os, sys
from pathlib import Path
from labctl.network import links
from labctl.topology import find, load
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.namespaces import Space
assert os.geteuid() != 0
world = Space.create(Path(sys.argv[1]))
assert world.identity.user
soon = Deadline(60, "a test")
assert world.agent().run(["id", "-u"], soon).stdout.split() == ["0"]
world.call(links.build, load(find("bridged")))
print(" ".join(sorted(link.name for link in world.call(links.links))))
world.agent().run(["chown", "0:0", str(world.directory)], soon)
world.end()
print(Path(sys.argv[1]).exists())
"""
CHECKOUT = Path(labctl.__file__).parents[1]


@pytest.mark.skipif(not shutil.which("newuidmap"), reason="needs newuidmap (package uidmap)")
def test_an_ordinary_user_makes_a_world_with_links_and_leaves_nothing(
    world: Space, tmp_path: Path
) -> None:
    """In a world, so that ranges for a user, and a /dev/net/tun of the usual mode, are its own."""
    agent = world.agent()
    ranges = tmp_path / "ranges"
    ranges.write_text("nobody:200000:65536\n")
    for name in ("/etc/subuid", "/etc/subgid"):
        assert Path(name).exists()
        agent.run(["mount", "--bind", str(ranges), name], soon())
    agent.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "x", "/mnt"], soon())
    agent.run(["mknod", "-m", "666", "/mnt/tun", "c", "10", "200"], soon())
    agent.run(["mount", "--bind", "/mnt/tun", "/dev/net/tun"], soon())
    _let_everybody_reach(agent, [Path(sys.base_prefix), Path(sys.prefix), CHECKOUT])
    user = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]
    result = agent.run([*user, sys.executable, "-c", AS_USER, "/mnt/w"], soon(), check=False)
    assert result.ok, result.stderr
    assert result.stdout.splitlines() == [
        "lan lo mgmt vm1-eth0 vm1-mgmt vm2-eth0 vm2-mgmt",
        "False",
    ]


def _let_everybody_reach(agent: Agent, paths: list[Path]) -> None:
    """Open the way to these folders inside the world: they may lie where only root may look."""
    closed = {
        folder
        for path in paths
        for folder in path.parents
        if not folder.stat().st_mode & stat.S_IXOTH
    }
    words = []
    for number, path in enumerate(paths):
        words += [f"mkdir /mnt/{number}", f"mount --bind {path} /mnt/{number}"]
    words += [f"mount -t tmpfs -o mode=755 x {folder}" for folder in sorted(closed)[:1]]
    if closed:
        for number, path in enumerate(paths):
            words += [f"mkdir -p {path}", f"mount --bind /mnt/{number} {path}"]
    agent.run(["sh", "-ec", "; ".join(words)], soon())
