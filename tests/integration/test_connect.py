"""Labs on a system's libvirtd (`--connect`): a real one, in a sandbox that plays the host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import SOLO, Done, until

from labctl.sandbox.base import Process
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.namespaces import Namespaces

LIBVIRTD = Path("/usr/sbin/libvirtd")
SECONDS = 300.0
LABCTL = [sys.executable, "-m", "labctl.cli.main"]
URI = ["--connect", "qemu:///system"]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        not LIBVIRTD.exists(), reason="needs libvirtd (package libvirt-daemon-system)"
    ),
]

# What a daemon keeps must stay in the sandbox, and it must ask nobody who we are.
SANDBOX = """
for folder in /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
  if [ -d $folder ]; then mount -t tmpfs -o mode=755 x $folder; fi
done
mkdir -p /run/libvirt /etc/libvirt
echo 'auth_unix_rw = "none"' > /etc/libvirt/libvirtd.conf
echo 'cgroup_controllers = []' > /etc/libvirt/qemu.conf
"""

LOOK = """
import json, os, libvirt
from pathlib import Path
from labctl.network.links import links
libvirt.registerErrorHandler(lambda *_: None, None)
def words(pid):
    try: return Path("/proc", pid, "cmdline").read_bytes().decode(errors="replace")
    except OSError: return ""
running = [words(pid) for pid in os.listdir("/proc") if pid.isdigit()]
print(json.dumps({
    "links": sorted(link.name for link in links()),
    "namespaces": sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else [],
    "domains": sorted(one.name() for one in libvirt.open("qemu:///system").listAllDomains()),
    "guests": sum("qemu-system" in one and "guest=" in one for one in running),
    "routers": sum("labctl.routers.raw" in one for one in running),
    "labs": sorted(os.listdir("/run/labctl")) if os.path.isdir("/run/labctl") else [],
}))
"""

BOOT_FILES = """
from pathlib import Path
words = {one.parent: one.read_bytes() for one in Path("/proc").glob("[0-9]*/cmdline")}
users = {
    process.stat().st_uid for process, line in words.items()
    if line.partition(bytes(1))[0].endswith(b"qemu-system-x86_64") and b"guest=hop" in line
}
(user,) = users
found = sorted(Path("/run/labctl/hop/boot").iterdir())
assert len(found) == 4, found
for one in found:
    print(one.name, oct(one.stat().st_mode & 0o777), one.stat().st_uid, user)
"""

DEFINE = """
import libvirt, sys
connection = libvirt.open("qemu:///system")
if sys.argv[2] == "make":
    connection.defineXML(f"<domain type='qemu'><name>{sys.argv[1]}</name>"
                         "<memory unit='MiB'>16</memory><os><type>hvm</type></os></domain>")
else:
    connection.lookupByName(sys.argv[1]).undefine()
"""


class Host:
    """A sandbox that plays a host with a libvirtd."""

    def __init__(self, sandbox: Namespaces, accel: str, folder: Path) -> None:
        self.sandbox = sandbox
        self.solo = str(folder / "solo.yaml")  # absolute: entering a sandbox changes the folder
        # The sandbox has a /run of its own, so labctl's usual place is free there.
        unset = ("LABCTL_RUNTIME_DIR", "XDG_RUNTIME_DIR")
        self.env = {name: value for name, value in os.environ.items() if name not in unset}
        self.env["LABCTL_ACCEL"] = accel

    def labctl(self, *words: str) -> Done:
        done = subprocess.run(
            [*self.sandbox.enter(), *LABCTL, *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            env=self.env, timeout=SECONDS, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.sandbox.enter(), *LABCTL, *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=self.env,
        )  # fmt: skip

    def python(self, script: str, *words: str) -> str:
        argv = [sys.executable, "-c", script, *words]
        return self.sandbox.agent().run(argv, Deadline(60, "looking at the host")).stdout

    def look(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.python(LOOK))
        found["labs"] = [name for name in found["labs"] if not name.startswith(".")]
        return found


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("connect")
    (folder / "solo.yaml").write_text(SOLO)
    sandbox = Namespaces.create(folder / "w")
    try:
        agent = sandbox.agent()
        agent.run(["sh", "-ec", SANDBOX], Deadline(20, "making the sandbox"))
        for argv in (["/usr/sbin/virtlogd"], [str(LIBVIRTD)]):
            log = folder / f"{Path(argv[0]).name}.log"
            Process.start(agent, argv, stdout=log, stderr=log, detached=True)
        socket = Path(f"/proc/{sandbox.identity.pid}/root/run/libvirt/libvirt-sock")
        until("libvirtd listens", socket.exists, 60)
        made = Host(sandbox, pytestconfig.getoption("--accel"), folder)
        before = made.look()
        yield made
        made.labctl("down", "--all")
        assert made.look() == before
    finally:
        sandbox.end()


def test_a_lab_comes_up_works_and_leaves_nothing(host: Host) -> None:
    before = host.look()
    up = host.labctl("up", "router-hop.yaml", *URI, "--name", "hop")
    assert up.status == 0, up
    try:
        now = host.look()
        assert now["domains"] == [*before["domains"], "hop-vm1", "hop-vm2"]
        assert now["namespaces"] == ["r1"]
        assert {"left", "right", "vm1-eth0", "vm2-eth0", "r1-eth0"} <= set(now["links"])
        (lab,) = host.labctl("status", "--json").json()
        assert (lab["name"], lab["state"]) == ("hop", "up")
        through = host.labctl("ssh", "vm1", "--", "ssh", "vm2", "uname", "-n")
        assert (through.status, through.stdout.strip()) == (0, "vm2"), through
        inside = host.labctl("exec", "r1", "--", "cat", "/proc/net/dev")
        assert "eth1:" in inside.stdout

        # What the guests boot holds keys: it is QEMU's user's, and nobody else's.
        for line in host.python(BOOT_FILES).splitlines():
            _name, mode, owner, qemu = line.split()
            assert (mode, owner) == ("0o600", qemu), line

        # A second one of the same names finds no room, and does no harm.
        other = host.labctl("up", "router-hop.yaml", *URI, "--name", "other")
        assert other.status == 2
        assert len(other.stderr.splitlines()) == 2, other.stderr
        assert "links or namespaces of these names already" in other.stderr
        assert "vm1-eth0" in other.stderr
        assert "r1" in other.stderr
        assert host.look() == now
    finally:
        down = host.labctl("down", "hop")
    assert down.status == 0, down
    assert host.look() == before


def test_a_guest_of_somebody_else_is_neither_used_nor_destroyed(host: Host) -> None:
    host.python(DEFINE, "solo-vm1", "make")
    before = host.look()
    try:
        up = host.labctl("up", host.solo, *URI)
        assert up.status == 2, up
        assert "labctl: libvirt has guests of these names already: solo-vm1" in up.stderr
        assert host.look() == before
    finally:
        host.python(DEFINE, "solo-vm1", "remove")


def _kill(going: subprocess.Popen[bytes]) -> None:
    """Kill labctl itself: what we started is nsenter(1), which waits for it."""
    children = Path(f"/proc/{going.pid}/task/{going.pid}/children")
    if going.poll() is None:
        (child,) = children.read_text().split()
        os.kill(int(child), signal.SIGKILL)
    going.wait(SECONDS)


@pytest.mark.parametrize("moment", ["links", "routers", "guests"])
def test_up_killed_is_taken_down_by_down(host: Host, moment: str) -> None:
    before = host.look()
    going = host.start("up", host.solo, *URI)
    try:
        until(
            f"there are {moment}",
            lambda: host.look()[moment] != before[moment] or going.poll() is not None,
        )
        assert going.poll() is None, "it ended before it could be killed"
    finally:
        _kill(going)
    down = host.labctl("down", "solo")
    assert down.status == 0, down
    until("all is gone", lambda: host.look() == before, 30)


def test_without_a_daemon_nothing_is_made(host: Host) -> None:
    before = host.look()
    up = host.labctl("up", host.solo, "--connect", "qemu+unix:///system?socket=/run/none")
    assert up.status == 3, up
    assert "libvirt cannot open" in up.stderr
    assert "Traceback" not in up.stderr
    assert host.look() == before
