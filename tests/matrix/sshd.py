"""Machines for matrices: network namespaces of their own, joined by a bridge, each with an sshd.

All of it goes with the `with` block; what a worker keeps (labs, results) lies in its own folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pyroute2 import NetNS, netns

SSHD = "/usr/sbin/sshd"
PORT = 22


def inside(name: str, words: list[str]) -> list[str]:
    """Return a command that runs in a network namespace."""
    return ["nsenter", f"--net=/run/netns/{name}", "--", *words]


@dataclass
class Machine:
    """A network namespace with an address, and an sshd in it."""

    name: str
    address: str
    folder: Path
    server: subprocess.Popen[bytes] | None = None

    @property
    def runtime(self) -> Path:
        return self.folder / "r"

    def start(self, key: Path) -> None:
        """Start its sshd."""
        self.runtime.mkdir(parents=True, exist_ok=True)
        host_key = self.folder / "host_key"
        if not host_key.exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host_key], check=True
            )
        config = self.folder / "sshd_config"
        own = {"LABCTL_RUNTIME_DIR": self.runtime, "XDG_STATE_HOME": self.folder}
        config.write_text(
            f"ListenAddress {self.address}:{PORT}\nHostKey {host_key}\nUsePAM no\n"
            f"AuthorizedKeysFile {key}.pub\nPasswordAuthentication no\nStrictModes no\n"
            f"PidFile none\nMaxStartups 100\nPermitRootLogin prohibit-password\n"
            f"SetEnv {' '.join(f'{name}={value}' for name, value in own.items())}\n"
        )
        log = self.folder / "sshd.log"
        words = inside(self.name, [SSHD, "-D", "-f", str(config), "-E", str(log)])
        self.server = subprocess.Popen(words, stdin=subprocess.DEVNULL)

    def processes(self) -> list[int]:
        """Return the processes that are in its network namespace."""
        own = Path(f"/run/netns/{self.name}").stat().st_ino
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if (entry / "ns/net").stat().st_ino == own:
                    found.append(int(entry.name))
        return found

    def kill(self) -> None:
        """End all that runs on it, as a power cut would."""
        for _ in range(3):
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.server:
            self.server.wait()
            self.server = None

    def link(self, up: bool) -> None:
        """Cut its only link, or join it again."""
        with NetNS(self.name) as there:
            (number,) = there.link_lookup(ifname="eth0")
            there.link("set", index=number, state="up" if up else "down")

    def labs(self) -> list[Path]:
        """Return what labs have left on it."""
        return [one for one in self.runtime.glob("labctl/*") if not one.name.startswith(".")]


@dataclass
class Cluster:
    """Some machines and one that runs the matrix."""

    machines: list[Machine]
    control: str
    """The network namespace of the machine that runs it."""
    key: Path
    config: Path
    """Of ssh(1)."""
    folder: Path
    names: list[str] = field(default_factory=list)


@contextlib.contextmanager
def cluster(folder: Path, count: int) -> Iterator[Cluster]:
    """Make machines `w1`, `w2`, …, reachable by these names."""
    if not Path(SSHD).exists():
        sys.exit("matrix: sshd is not installed: apt-get install openssh-server")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    mark = f"lm{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    names = [f"{mark}-c", *(f"{mark}-w{number}" for number in range(1, count + 1))]
    machines = [
        Machine(name, f"10.99.0.{number}", folder / f"w{number}")
        for number, name in enumerate(names[1:], 1)
    ]
    hub = f"{mark}-hub"
    try:
        netns.create(hub)
        with NetNS(hub) as middle:
            middle.link("add", ifname="br0", kind="bridge")
            (bridge,) = middle.link_lookup(ifname="br0")
            middle.link("set", index=bridge, state="up")
            for number, name in enumerate(names):
                netns.create(name)
                _join(middle, bridge, number, name, f"10.99.0.{number or 254}")
        for machine in machines:
            machine.start(key)
        config = folder / "ssh_config"
        config.write_text(
            "".join(
                f"Host w{number}\n  HostName {one.address}\n"
                for number, one in enumerate(machines, 1)
            )
            + f"Host *\n  User root\n  Port {PORT}\n  IdentityFile {key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {folder / 'known_hosts'}\n  StrictHostKeyChecking accept-new\n"
        )
        yield Cluster(machines, names[0], key, config, folder, names)
    finally:
        for machine in machines:
            with contextlib.suppress(OSError):
                machine.kill()
        for name in (*names, hub):
            with contextlib.suppress(OSError):
                netns.remove(name)


def _join(middle: NetNS, bridge: int, number: int, name: str, address: str) -> None:
    """Join a namespace to the bridge."""
    middle.link("add", ifname=f"p{number}", kind="veth", peer={"ifname": "eth0", "net_ns_fd": name})
    (port,) = middle.link_lookup(ifname=f"p{number}")
    middle.link("set", index=port, master=bridge, state="up")
    with NetNS(name) as there:
        (own,) = there.link_lookup(ifname="eth0")
        there.addr("add", index=own, address=address, prefixlen=24)
        for index in (own, 1):
            there.link("set", index=index, state="up")


def wait_for_end(machine: Machine, seconds: float) -> bool:
    """Wait until no lab is left on a machine; say whether that came true."""
    end = time.monotonic() + seconds
    while machine.labs() and time.monotonic() < end:
        time.sleep(1)
    return not machine.labs()
