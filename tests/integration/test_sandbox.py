"""Sandboxes for real: what is in them, how they end, and that nothing of them stays."""

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
from labctl.sandbox.namespaces import Namespaces
from labctl.topology import find, load

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

MAKER = """
import sys, time
from pathlib import Path
from labctl.sandbox.namespaces import Namespaces
sandbox = Namespaces.create(Path(sys.argv[1]))
if "keep" in sys.argv: sandbox.keep()
print(sandbox.identity.pid, flush=True)
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
    """Where a sandbox may be made; whatever is left of it is ended."""
    path = tmp_path / "w"
    before = (host_links(), host_mounts())
    yield path
    namespaces.end(path)
    assert (host_links(), host_mounts()) == before


@pytest.fixture
def sandbox(folder: Path) -> Iterator[Namespaces]:
    made = Namespaces.create(folder)
    yield made
    made.end()


# --- what is in it ------------------------------------------------------------------------------


def test_a_sandbox_has_processes_links_and_run_of_its_own(sandbox: Namespaces) -> None:
    agent = sandbox.agent()
    assert agent.run(["readlink", "/proc/1/exe"], soon()).stdout.strip() == os.path.realpath(
        sys.executable
    )
    assert int(agent.run(["sh", "-c", "echo $$"], soon()).stdout) < 1000
    assert [link.name for link in sandbox.call(links.links)] == ["lo"]
    assert sandbox.call(links.links)[0].up
    assert {"netns"} <= set(agent.run(["ls", "/run"], soon()).stdout.split()) <= {"netns", "mount"}
    assert Path("/run").is_dir()
    assert oct(sandbox.directory.stat().st_mode & 0o777) == "0o700"


def test_what_is_mounted_inside_stays_inside(sandbox: Namespaces, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    sandbox.agent().run(["mount", "-t", "tmpfs", "x", str(tmp_path / "m")], soon())
    sandbox.agent().run(["touch", str(tmp_path / "m" / "file")], soon())
    assert list((tmp_path / "m").iterdir()) == []


def test_the_user_libvirt_looks_for_has_a_name_inside(sandbox: Namespaces) -> None:
    told = sandbox.agent().run(["getent", "passwd", "libvirt-qemu", "root"], soon()).stdout
    assert "libvirt-qemu:" in told
    assert "root:" in told
    assert sandbox.agent().run(["getent", "group", "libvirt-qemu"], soon()).ok
    assert host_mounts() == len(Path("/proc/self/mountinfo").read_text().splitlines())


def test_a_directory_below_run_is_seen_inside_at_its_own_path(tmp_path: Path) -> None:
    path = Path(f"/run/labctl-test-{os.getpid()}")
    sandbox = Namespaces.create(path)
    try:
        (path / "from-outside").write_text("x")
        assert sandbox.agent().run(["cat", str(path / "from-outside")], soon()).stdout == "x"
        sandbox.agent().run(["touch", str(path / "from-inside")], soon())
        assert (path / "from-inside").exists()
    finally:
        sandbox.end()
    assert not path.exists()
    assert tmp_path.exists()


def test_named_namespaces_of_the_sandbox_can_be_entered(sandbox: Namespaces) -> None:
    create = "from pyroute2 import netns; netns.create('r1')"
    sandbox.agent().run([sys.executable, "-c", create], soon())
    assert not Path("/run/netns/r1").exists()
    enter = sandbox.enter(netns="r1")
    listed = subprocess.run([*enter, "cat", "/proc/net/dev"], capture_output=True, check=True)
    assert [line.split()[0] for line in listed.stdout.decode().splitlines()[2:]] == ["lo:"]
    assert [link.name for link in sandbox.call(links.links, "r1")] == ["lo"]
    with pytest.raises(LabctlError, match="No such file"):
        sandbox.call(links.links, "r2")
    assert sandbox.agent().run(["ls", "/run/netns"], soon()).stdout == "r1\n"


def test_orphans_are_reaped(sandbox: Namespaces) -> None:
    # Each shell leaves a child behind that PID 1 inherits; none may stay as a zombie.
    many = "for i in $(seq 50); do (sleep 0.01 &) ; done"
    sandbox.agent().run(["sh", "-c", many], soon())
    limit = soon()
    while True:
        every = ["sh", "-c", "cat /proc/[0-9]*/stat"]
        states = sandbox.agent().run(every, soon(), check=False).stdout
        assert "\n1 (" in f"\n{states}", "it sees PID 1, so it would see what is left"
        left = [line for line in states.splitlines() if "(sleep)" in line]
        if not left:
            break
        limit.pause(0.05)


def test_a_sandbox_tells_which_of_its_processes_run(sandbox: Namespaces, tmp_path: Path) -> None:
    program = Process.start(
        sandbox.agent(), ["sleep", "1000"], stdout=tmp_path / "o", stderr=tmp_path / "e"
    )
    assert sandbox.runs(program.pid)
    assert sandbox.runs(program.pid, "sleep 1000")
    assert not sandbox.runs(program.pid, "labctl.routers.raw")
    program.kill(signal.SIGKILL)
    program.finish(soon())
    assert not sandbox.runs(program.pid)
    assert not sandbox.runs(999_999)


# --- coming and going ---------------------------------------------------------------------------


def test_two_sandboxes_with_the_same_names_do_not_meet(folder: Path, tmp_path: Path) -> None:
    topology = load(find("bridged"))
    one = Namespaces.create(folder)
    two = Namespaces.create(tmp_path / "w2")
    try:
        for sandbox in (one, two):
            sandbox.call(links.build, topology)
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
        Namespaces.create(folder)
    assert (folder / "precious").exists()
    shutil.rmtree(folder)


def test_a_later_process_enters_and_ends_a_kept_sandbox(folder: Path) -> None:
    made = Namespaces.create(folder)
    made.keep()
    made.close()
    again = Namespaces.attach(folder)
    assert again.identity == made.identity
    assert [link.name for link in again.call(links.links)] == ["lo"]
    again.end()
    assert not folder.exists()
    gone(made.identity.pid)
    with pytest.raises(FileNotFoundError):
        Namespaces.attach(folder)


def maker(folder: Path, *words: str) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", MAKER, str(folder), *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, int(process.stdout.readline())


def test_an_unkept_sandbox_ends_with_its_maker(folder: Path) -> None:
    process, pid = maker(folder)
    process.kill()
    process.wait()
    vanished(folder)
    gone(pid)


def test_a_kept_sandbox_outlives_its_maker(folder: Path) -> None:
    process, pid = maker(folder, "keep")
    process.kill()
    process.wait()
    sandbox = Namespaces.attach(folder)
    assert sandbox.identity.pid == pid
    assert sandbox.agent().run(["true"], soon()).ok
    sandbox.end()
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
def test_a_sandbox_whose_first_process_is_killed_is_dead_and_can_be_ended(
    folder: Path, victim: str
) -> None:
    sandbox = Namespaces.create(folder)
    sandbox.keep()
    sandbox.call(links.build, load(find("bridged")))
    pid = sandbox.identity.pid
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(pid if victim == "init" else parent, signal.SIGKILL)
    gone(pid)
    with pytest.raises(LabctlError):
        sandbox.agent().run(["true"], soon())
    with pytest.raises(LabctlError, match="has ended"):
        Namespaces.attach(folder)
    sandbox.end()
    assert not folder.exists()


def test_everything_inside_dies_with_the_sandbox(sandbox: Namespaces, tmp_path: Path) -> None:
    Process.start(
        sandbox.agent(),
        ["sh", "-c", "trap '' TERM HUP INT; sleep 1000"],
        stdout=tmp_path / "o",
        stderr=tmp_path / "e",
        detached=True,
    )
    children = Path(f"/proc/{sandbox.identity.pid}/root/proc")
    inside = [entry for entry in children.iterdir() if entry.name.isdigit()]
    assert len(inside) >= 2
    handle = os.pidfd_open(sandbox.identity.pid)
    sandbox.end()
    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(handle, 0)
    os.close(handle)


def test_ending_twice_or_from_two_sides_is_no_error(folder: Path) -> None:
    sandbox = Namespaces.create(folder)
    sandbox.keep()
    threads = [threading.Thread(target=namespaces.end, args=(folder,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not folder.exists()
    sandbox.end()


def test_a_directory_that_its_pid_1_is_just_removing_is_no_sandbox_elsewhere(folder: Path) -> None:
    owned.make(folder)  # with its mark, and what told of the sandbox is gone already
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


def test_keeping_a_sandbox_that_has_ended_is_an_error(folder: Path) -> None:
    sandbox = Namespaces.create(folder)
    os.kill(sandbox.identity.pid, signal.SIGKILL)
    gone(sandbox.identity.pid)
    with pytest.raises(LabctlError, match="went down"):
        sandbox.keep()


# --- as an ordinary user ------------------------------------------------------------------------

AS_USER = """
import os, sys
from pathlib import Path
from labctl.network import links
from labctl.topology import find, load
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.namespaces import Namespaces
assert os.geteuid() != 0
sandbox = Namespaces.create(Path(sys.argv[1]))
assert sandbox.identity.user
soon = Deadline(60, "a test")
assert sandbox.agent().run(["id", "-u"], soon).stdout.split() == ["0"]
sandbox.call(links.build, load(find("bridged")))
print(" ".join(sorted(link.name for link in sandbox.call(links.links))))
sandbox.agent().run(["chown", "0:0", str(sandbox.directory)], soon)
sandbox.end()
print(Path(sys.argv[1]).exists())
"""
CHECKOUT = Path(labctl.__file__).parents[1]


@pytest.mark.skipif(not shutil.which("newuidmap"), reason="needs newuidmap (package uidmap)")
def test_an_ordinary_user_makes_a_sandbox_with_links_and_leaves_nothing(
    sandbox: Namespaces, tmp_path: Path
) -> None:
    """In a sandbox, so that ranges of ids and a /dev/net/tun of the usual mode are its own."""
    agent = sandbox.agent()
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
    """Open the way to these folders inside the sandbox: they may lie where only root may look."""
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
