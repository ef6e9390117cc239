"""The `labctl` command in a place of its own, and proof that nothing of its labs is left."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from pyroute2 import IPRoute

from labctl import wait_until
from labctl.guests.accel import Policy
from labctl.sandbox.namespaces import start_ticks

LABCTL = str(Path(sys.executable).parent / "labctl")
SECONDS = 600.0
"""For one thing to happen: a guest under emulation on a busy machine takes its time."""
COMMAND_SECONDS = 800.0
"""For one command, which may be a whole experiment."""
GONE_SECONDS = 20.0
SUBREAPER = 36
NAMESPACES = ("net", "mnt", "pid", "user")

SOLO = """\
name: solo
networks:
  left: {subnets: [10.0.1.0/24]}
  right: {subnets: [10.0.2.0/24]}
nodes:
  vm1:
    interfaces: [{network: left, addresses: [10.0.1.1/24]}]
    routes: [{to: default, via: 10.0.1.254}]
routers:
  r1:
    kind: raw
    interfaces:
      - {network: left, addresses: [10.0.1.254/24]}
      - {network: right, addresses: [10.0.2.254/24]}
"""
"""The least that has every kind of thing: a guest, bridges, a namespace, a program in it."""

STORY = """
from labctl.experiments import Trial, experiment, probes
from labctl.lab.watch import capture, watch_drops
from labctl.topology.graph import points_of


@experiment("story", topology="solo.yaml", hypothesis="every kind of step can be cut short")
def story(trial: Trial) -> None:
    vm1 = trial.lab.node("vm1")
    with trial.arm("one", "all kinds of steps") as arm:
        def reached(step: str) -> None:
            arm.check(step, "reached", "reached", True)
        with vm1.offload({"tx-checksumming": False}):
            reached("offload")
            with watch_drops(vm1):
                reached("drops")
                known = points_of(trial.lab.topology)
                path = [known["vm1:eth0"], known["vm1-eth0"]]
                with capture(trial.lab, path, trial.scratch("one")):
                    reached("capture")
                    job = vm1.start("sleep 300")
                    reached("job")
                    job.stop()
        trial.lab.router("r1").set_kind("raw-vnet")
        reached("router")
"""
"""An experiment with every kind of step, over `SOLO`."""


def until(what: str, seen: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until `seen` says so; fail after `seconds`. Moments pass, so it looks often."""
    wait_until(what, seen, within=seconds, every=0.01)


@dataclass
class Done:
    """What a finished command left."""

    status: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """Parse what it printed."""
        return json.loads(self.stdout)


@dataclass
class Place:
    """A runtime folder and results of its own, so that no other lab of this host matters."""

    root: Path
    accel: Policy = "auto"
    logs: Path | None = None
    """Where the standard error of what is started goes; in `root` unless said."""
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.env = {
            **os.environ,
            "LABCTL_RUNTIME_DIR": str(self.root),
            "LABCTL_RESULTS": str(self.results),
            "LABCTL_ACCEL": self.accel,
        }

    @property
    def runtime(self) -> Path:
        """Where the labs' directories are."""
        return self.root / "labctl"

    @property
    def results(self) -> Path:
        return self.root / "results"

    def write(self, name: str, text: str) -> Path:
        """Write a file for a command to read."""
        path = self.root / name
        path.write_text(text)
        return path

    def run(self, *words: str, stdin: bytes = b"", cwd: Path | None = None) -> Done:
        """Run `labctl` to its end."""
        done = subprocess.run(
            [LABCTL, *words],
            input=stdin,
            capture_output=True,
            env=self.env,
            cwd=cwd or self.root,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *words: str, stdin: bytes = b"") -> Done:
        """Run `labctl` and require that it exits with 0."""
        done = self.run(*words, stdin=stdin)
        assert done.status == 0, f"labctl {' '.join(words)}: {done}"
        return done

    @contextmanager
    def start(self, *words: str, group: bool = False, output: bool = False) -> Iterator[Running]:
        """Start `labctl`; it is killed at the end of the `with` block if it still runs.

        With `output` what it prints is in its log too, between what it says on standard error.
        """
        with self._start([LABCTL, *words], group, output) as running:
            yield running

    @contextmanager
    def python(self, script: str) -> Iterator[Running]:
        """Start a Python script; its argument is the accelerator policy."""
        with self._start([sys.executable, script, self.accel], False) as running:
            yield running

    @contextmanager
    def _start(self, argv: list[str], group: bool, output: bool = False) -> Iterator[Running]:
        log = (self.logs or self.root) / f"stderr-{time.monotonic_ns()}"
        with log.open("wb") as err:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=err if output else subprocess.DEVNULL,
                stderr=err,
                env=self.env,
                cwd=self.root,
                start_new_session=group,
            )
        try:
            yield Running(child, log)
        finally:
            child.kill()
            child.wait()

    def lab_files(self) -> list[str]:
        """List the directories in the runtime folder."""
        with suppress(FileNotFoundError):
            return sorted(path.name for path in self.runtime.iterdir() if path.is_dir())
        return []


@dataclass
class Running:
    """A `labctl` that runs."""

    child: subprocess.Popen[bytes]
    log: Path

    def said(self, words: str, count: int = 1) -> bool:
        """Whether a line with these words has been written to standard error `count` times."""
        lines = self.log.read_text(errors="replace").splitlines()
        return sum(" ".join(line.split()).find(words) >= 0 for line in lines) >= count

    def wait(self, seconds: float = SECONDS) -> int:
        return self.child.wait(seconds)

    def reach(self, what: str, seen: Callable[[], object]) -> None:
        """Wait for a moment of its run; fail if it ends before."""

        def look() -> bool:
            if seen():
                return True
            status = self.child.poll()
            assert status is None or seen(), (
                f"labctl ended with {status} before {what}:\n{self.log.read_text()}"
            )
            return False

        until(what, look)


def needs_users() -> None:
    """Skip where nobody can become an ordinary user who makes namespaces."""
    try:
        if int(Path("/proc/sys/user/max_user_namespaces").read_text()) == 0:
            pytest.skip("this kernel has no user namespaces")
    except OSError:
        pytest.skip("this kernel has no user namespaces")
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")


def as_user(where: Place, script: str, *options: str) -> Done:
    """Run a shell script as an ordinary user; as_user.py says what the options change for them."""
    home = where.root / "home"
    home.mkdir(exist_ok=True)
    where.root.chmod(0o711)
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("as_user.py")),
            *options,
            str(home),
            *(sys.base_prefix, sys.prefix, str(repository)),
            *("--", "/bin/sh", "-c", script),
        ],
        capture_output=True,
        text=True,
        env={**where.env, "LABCTL_RUNTIME_DIR": str(home)},
        timeout=SECONDS,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@contextmanager
def place(accel: Policy) -> Iterator[Place]:
    """Make a place; its path is short because sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="lt", dir="/tmp") as folder:
        where = Place(Path(folder), accel)
        try:
            yield where
        finally:
            where.run("down", "--all")


# --- what is left -------------------------------------------------------------------------------


def _stat(pid: int) -> tuple[int, str] | None:
    """Return parent and state of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), fields[0]


def pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def descendants(of: int) -> set[int]:
    """Return the processes that stem from `of`, zombies apart."""
    children: dict[int, list[int]] = {}
    alive = set()
    for pid in pids():
        found = _stat(pid)
        if found:
            children.setdefault(found[0], []).append(pid)
            if found[1] not in "ZX":
                alive.add(pid)
    result: set[int] = set()
    waiting = [of]
    while waiting:
        for child in children.get(waiting.pop(), []):
            if child not in result:
                result.add(child)
                waiting.append(child)
    return result & alive


def namespaces_of(pid: int) -> set[str]:
    found = set()
    for kind in NAMESPACES:
        with suppress(OSError):
            found.add(str(Path(f"/proc/{pid}/ns/{kind}").readlink()))
    return found


def words_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return "(gone)"


def host_links() -> set[str]:
    with IPRoute() as netlink:
        return {str(link.get("ifname")) for link in netlink.get_links()}


def process_of(lab: Path, *wanted: str) -> int:
    """Return the one process of a lab whose command line has its directory and all these words."""
    found = [
        pid
        for pid in pids()
        if str(lab) in (text := words_of(pid)) and all(word in text for word in wanted)
    ]
    assert len(found) == 1, f"{wanted}: {[(pid, words_of(pid)) for pid in found]}"
    return found[0]


def set_subreaper(on: bool) -> None:
    """Let orphans below this process become its children, or no longer (prctl(2))."""
    ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, int(on))


class Watch:
    """Sees every process that stems from this one, also those whose parents have died.

    Orphans become children of the nearest subreaper (prctl(2)), which for the length of the `with`
    block is this process: so none of a killed command's processes can hide. `reaper` is the pid of
    another process that is it already, above this one, and collects them as soon as they end.
    """

    def __init__(self, where: Place, reaper: int = 0) -> None:
        self._place = where
        self._reaper = reaper
        self._root = reaper or os.getpid()
        self._namespaces: set[str] = set()
        self._noted = 0.0

    def __enter__(self) -> Self:
        if not self._reaper:
            set_subreaper(True)
        self._before = descendants(self._root)
        self._ours = set().union(*(namespaces_of(pid) for pid in {*self._before, os.getpid(), 1}))
        self._links = host_links()
        self._files = self._place.lab_files()
        self._mounts = set(Path("/proc/self/mountinfo").read_text().splitlines())
        return self

    def __exit__(self, *_: object) -> None:
        if not self._reaper:
            set_subreaper(False)
        for pid in self.processes():  # the test has failed: let it not harm the others
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        """Collect the orphans that have ended; children of others' `Popen`s are not touched."""
        if self._reaper:
            return
        for pid in pids():
            found = _stat(pid)
            if found and found[0] == os.getpid() and found[1] == "Z" and pid not in self._before:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def processes(self) -> set[int]:
        """Return what runs now because of what was started since."""
        return descendants(self._root) - self._before

    def note(self) -> None:
        """Remember the namespaces that are there now, to look for them afterwards."""
        for pid in self.processes():
            self._namespaces |= namespaces_of(pid) - self._ours
        # The kernel gives a freed namespace's number to the next: younger processes do not count.
        self._noted = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")

    def forget(self) -> None:
        """Look for these namespaces no more: the kernel may have given their numbers to others."""
        self._namespaces.clear()

    @property
    def seen(self) -> set[str]:
        """The namespaces that were noted."""
        return self._namespaces

    def left(self, files: bool = True) -> list[str]:
        """Say what is left: processes, namespaces, mounts, links, directories."""
        found = [f"process {pid}: {words_of(pid)}" for pid in self.processes()]
        for pid in pids():
            held = namespaces_of(pid) & self._namespaces
            if held and 0 <= start_ticks(pid) <= self._noted:
                found.append(f"namespace {held} of process {pid}: {words_of(pid)}")
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        root = str(self._place.root)
        found += [f"mount: {line}" for line in mounts if root in line and line not in self._mounts]
        found += [
            f"mount: {line}" for line in mounts if any(name in line for name in self._namespaces)
        ]
        found += [f"link {name}" for name in sorted(host_links() - self._links)]
        found += [
            f"directory {name}"
            for name in self._place.lab_files()
            if files and name not in self._files
        ]
        return found

    def nothing_left(self, *, files: bool = True) -> None:
        """Require that nothing is left, within a deadline; `files` False forgives directories."""
        end = time.monotonic() + GONE_SECONDS
        while found := self.left(files):
            assert time.monotonic() < end, "left behind:\n" + "\n".join(found)
            time.sleep(0.02)
        self._reap()


def last_of(text: str, begin: str) -> str:
    """Return the last line that begins so."""
    found = [line for line in text.splitlines() if line.startswith(begin)]
    assert found, f"no line begins with {begin!r}:\n{text}"
    return found[-1]
