"""Labs on a real Xen host (`--connect xen+ssh://…`): one in a guest plays it, in a sandbox.

Its xenconsoled writes no consoles, as Debian's does not.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from live import Done, until

from labctl import topology
from labctl.guests import xen_host
from labctl.lab.lab import Lab
from labctl.sandbox.deadline import Deadline

SECONDS = 800.0
LABCTL = [sys.executable, "-m", "labctl.cli.main"]
HOST = "Real-Xen"
URI = ["--connect", f"xen+ssh://root@{HOST}/system"]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

ALONE = """\
name: alone
nodes:
  xen9: {hypervisor: xen, memory: 1900}
"""
CROSSING = """\
name: crossing
networks:
  left: {subnets: [10.0.1.0/24]}
  right: {subnets: [10.0.2.0/24]}
nodes:
  xen1: {hypervisor: xen}
  vm1:
    host: xen1
    interfaces: [{network: left, addresses: [10.0.1.1/24]}]
    routes: [{to: default, via: 10.0.1.254}]
  vm2:
    host: xen1
    interfaces: [{network: right, addresses: [10.0.2.2/24]}]
    routes: [{to: default, via: 10.0.2.254}]
routers:
  r1:
    host: xen1
    kind: raw-vnet
    interfaces:
      - {network: left, addresses: [10.0.1.254/24]}
      - {network: right, addresses: [10.0.2.254/24]}
"""
USER = """
set -e
mount -t tmpfs x /etc/ssh
cat >/etc/ssh/ssh_config
mkdir -p /run/user
"""
"""The user's SSH configuration in the sandbox: ssh asks the user database for a home, not HOME."""
SILENT = """
set -e
pid=$(cat /run/xen/xenconsoled.pid)
kill $pid
while [ -d /proc/$pid ]; do sleep 0.1; done
/usr/lib/xen-4.17/bin/xenconsoled --pid-file=/run/xen/xenconsoled.pid --log=none
"""
LOOK = """
for one in /sys/class/net/*; do echo link ${one##*/}; done
for one in /run/netns/*; do echo namespace ${one##*/}; done
xl list | while read -r name _; do echo guest $name; done
find /run/labctl* /var/log/xen /tmp /root | while read -r one; do echo file $one; done
for one in /proc/[0-9]*; do
  line=$(tr '\\0' ' ' <$one/cmdline 2>/dev/null)
  case $line in
    *python*|*perl*) echo program ${line%% *} ;;
  esac
done
"""


class Real:
    """A Xen host that labctl in its lab's sandbox takes for a real one."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.traffic = str(folder / "crossing.yaml")
        Path(self.traffic).write_text(CROSSING)
        self.env = os.environ | {"LABCTL_RUNTIME_DIR": "/run/user"}

    def labctl(self, *words: str) -> Done:
        done = subprocess.run(
            [*self.lab.sandbox.enter(), *LABCTL, *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            env=self.env, timeout=SECONDS, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.lab.sandbox.enter(), *LABCTL, *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=self.env,
        )  # fmt: skip

    def dom0(self, line: str) -> str:
        return self.lab.node("xen9").run(line, timeout=120).stdout

    def there(self, line: str) -> bool:
        """Whether a command in dom0 says yes: quicker than to look at everything."""
        return self.lab.node("xen9").run(line, timeout=120, check=False).ok

    def look(self) -> list[str]:
        """Everything in dom0 that a lab could leave there.

        But for what Python keeps beside labctl's own code there, which comes as it is imported.
        """
        return sorted(one for one in self.dom0(LOOK).splitlines() if "__pycache__" not in one)

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Let nobody find the host for the length of a `with` block."""
        self.user(f"ssh -S /run/user/labctl/crossing/c/xen1 -O exit {HOST}")
        self.user("mv /etc/ssh/ssh_config /etc/ssh/kept")
        try:
            yield
        finally:
            self.user("mv /etc/ssh/kept /etc/ssh/ssh_config")

    def user(self, line: str, stdin: bytes = b"") -> None:
        """Do something as the user of the machine that the sandbox is here."""
        self.lab.sandbox.agent().run(["sh", "-c", line], Deadline(20, line), stdin=stdin)

    def here(self) -> list[str]:
        """What a lab could leave on the user's machine: its directory, SSH connections."""
        script = "ls /run/user/labctl; pgrep -af 'ssh .*Real-Xen' || :"
        words = ["sh", "-c", script]
        text = self.lab.sandbox.agent().run(words, Deadline(60, "looking"), check=False).stdout
        return [line for line in text.splitlines() if "pgrep" not in line]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    folder = tmp_path_factory.mktemp("real")
    (folder / "alone.yaml").write_text(ALONE)
    # What guests boot is in dom0's memory here, not on disks.
    small = xen_host.guest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xen_host, "guest", partial(small, dom0_memory=1024))
        lab = Lab.up(topology.load(folder / "alone.yaml"), name="xen-real")
    with lab:
        text = (lab.directory / "ssh_config").read_text()
        found = {line.split()[0]: line for line in text.splitlines() if line.strip()}
        wanted = ("HostName", "IdentityFile", "UserKnownHostsFile", "KexAlgorithms")
        config = "\n".join([f"Host {HOST}", "HostKeyAlias xen9", *(found[one] for one in wanted)])
        made = Real(lab, folder)
        made.user(USER, f"{config}\n".encode())
        made.dom0(SILENT)
        yield made


def test_a_lab_comes_up_works_and_leaves_nothing(real: Real) -> None:
    before = real.look()
    up = real.labctl("up", real.traffic, *URI)
    assert up.status == 0, up
    try:
        now = real.look()
        assert {"link left", "link vm1-eth0", "link r1-eth1", "namespace r1"} <= {*now}
        assert {"guest crossing-vm1", "guest crossing-vm2"} <= {*now}
        through = real.labctl("ssh", "vm1", "--", "ssh", "vm2", "uname", "-n")
        assert (through.status, through.stdout) == (0, "vm2\n"), through
        (told,) = real.labctl("status", "--json").json()
        assert (told["state"], told["accel"]) == ("up", "xen")
        states = {part["name"]: (part["is"], part["state"]) for part in told["parts"]}
        assert states["xen1"] == ("real Xen host", "running")
        assert states["vm2"] == ("node on xen1", "running")
        assert states["r1"] == ("router (raw-vnet) on xen1", "running")
        assert "labctl: ready" in real.labctl("logs", "vm2").stdout
        assert "xen1 is a real host" in real.labctl("logs", "xen1").stderr
        assert "eth1:" in real.labctl("exec", "r1", "--", "cat", "/proc/net/dev").stdout
        quiet = "cat /proc/sys/net/ipv6/conf/vm1-eth0/disable_ipv6"
        assert real.dom0(quiet) == "1\n"

        trace = real.labctl("trace", "vm1", "vm2", "--tcp", "22", "--json")
        assert trace.status == 0, trace
        text = json.dumps(trace.json())
        for hop in ("vm1:eth0", "vm1-eth0", "r1-eth0", "r1:eth1", "vm2:eth0"):
            assert hop in text

        # A second one of the same names finds no room, and does no harm.
        other = real.labctl("up", real.traffic, *URI, "--name", "other")
        assert other.status == 2, other
        assert f"{HOST} has these names already: left, r1-eth0, r1-eth1, right" in other.stderr
        assert len(other.stderr.splitlines()) == 2, other.stderr
        assert real.look() == now

        # A guest that ends is told from a host that does not answer.
        real.dom0("xl destroy crossing-vm2")
        ended = real.labctl("ssh", "vm2", "true")
        assert ended.status != 0
        assert "vm2 has ended" in ended.stderr
        with real.unreachable():
            (told,) = real.labctl("status", "--json").json()
            assert {part["state"] for part in told["parts"]} == {"unknown", ""}
            failed = real.labctl("down", "crossing")
            assert failed.status == 3, failed
            assert "cannot be reached" in failed.stderr
    finally:
        down = real.labctl("down", "crossing")
    assert down.status == 0, down
    until("all is gone", lambda: real.look() == before and real.here() == [], 60)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["test -e /sys/class/net/left", "xl domid crossing-vm1"])
def test_up_killed_is_taken_down_by_down(real: Real, moment: str) -> None:
    before = real.look()
    going = real.start("up", real.traffic, *URI)
    try:
        until(
            moment,
            lambda: real.there(moment) or going.poll() is not None,
            SECONDS,
        )
        assert going.poll() is None, "it ended before it could be killed"
    finally:
        # What we started is nsenter(1), which waits for labctl.
        if going.poll() is None:
            children = Path(f"/proc/{going.pid}/task/{going.pid}/children")
            os.kill(int(children.read_text()), signal.SIGKILL)
        going.wait(SECONDS)
        down = real.labctl("down", "crossing")
    assert down.status == 0, down
    until("all is gone", lambda: real.look() == before and real.here() == [], 60)


def test_names_of_somebody_else_are_neither_used_nor_removed(real: Real) -> None:
    real.dom0("ip link add left type bridge; ip link add mine type bridge")
    before = real.look()
    try:
        up = real.labctl("up", real.traffic, *URI)
        assert up.status == 2, up
        assert f"labctl: {HOST} has these names already: left\n" in up.stderr
        assert real.look() == before
        assert real.here() == []
    finally:
        real.dom0("ip link del left; ip link del mine")
