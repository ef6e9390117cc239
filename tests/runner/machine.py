"""A runner: QEMU with a stock Debian in it, and with a real /dev/kvm in that.

QEMU's TCG emulates AMD's SVM with nested paging, so Linux's own KVM runs on a host that has none;
where the host's KVM can nest, that serves. The machine ends with this process, and whatever is
written to its disk with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.sandbox import owned, paths
from labctl.sandbox.deadline import Deadline

from .image import HOMES, HOST, Image

BOOT_SECONDS = 900.0
"""An emulated Debian answers after about a minute; this only catches one that never does."""
ANSWER_SECONDS = 120.0
"""For `true` by SSH in a machine that seems to hang."""
LOOK_SECONDS = 0.5
FETCH_SECONDS = 600.0
PORTS = 5
TROUBLE = re.compile(
    r"Kernel panic|\bBUG:|\bOops\b|general protection fault|double fault|soft lockup|"
    r"rcu: INFO: rcu_\w+ (?:self-)?detected stall"
)
"""Words of a kernel whose machine cannot be trusted any more."""
CMDLINE = (
    "root=/dev/vda rw console=ttyS0 loglevel=6 systemd.show_status=false panic=-1 oops=panic "
    "log_buf_len=16M "  # what it says in hours is compared
    # QEMU's virtual CPUs share one counter, but Linux compares them one after the other and calls
    # it unstable; then each look at the clock leaves the virtual CPU (HPET).
    "tsc=reliable "
    # The emulated CPU speculates nothing: the detours would only cost it time.
    "mitigations=off"
)
PR_SET_PDEATHSIG = 1


class RunnerError(Exception):
    """The runner itself broke: it died, hung, or its kernel did. No test's result."""


class TimeoutEndedError(Exception):
    """A command did not end in time, in a machine that is well."""


@dataclass(frozen=True)
class Processor:
    """What a runner's virtual CPUs are, and how they are run."""

    accel: str = "tcg"
    """`tcg`, or `kvm` where the host's own can nest."""
    model: str = "max,+svm,+npt,-vgif"
    """For TCG; under KVM it is the host's."""
    vcpus: int = 1
    """Two that run at once may break: Linux patches its code while the other one runs it, when the
    first guest comes and the last one goes, and TCG seems to run what was there before."""
    thread: str = "multi"
    """TCG's: `multi`, a thread each virtual CPU, or `single`, one for all, with which KVM's guests
    do not get on where there are two."""

    def words(self) -> list[str]:
        """Return QEMU's words for it."""
        smp = ["-smp", str(self.vcpus)]
        if self.accel == "kvm":
            return ["-accel", "kvm", "-cpu", "host", *smp]
        return ["-accel", f"tcg,thread={self.thread},tb-size=1024", "-cpu", self.model, *smp]

    def __str__(self) -> str:
        """Say it in one line."""
        if self.accel == "kvm":
            return f"KVM, nested, {self.vcpus} CPUs"
        return f"TCG, {self.model}, {self.vcpus} CPUs, thread={self.thread}"


@dataclass(frozen=True)
class Ended:
    """A command that ended in the machine."""

    status: int
    output: str
    """Standard output and standard error, as they came."""
    seconds: float


class Machine:
    """A running runner; made by `start`, ended by `close`."""

    def __init__(self, qemu: subprocess.Popen[bytes], folder: Path, console: Path) -> None:
        """Hold a machine whose QEMU was started; `start` makes one."""
        self._qemu = qemu
        self._folder = folder
        self._seen = 0
        self.console = console
        self.begun = time.monotonic()

    @classmethod
    @contextlib.contextmanager
    def start(
        cls,
        image: Image,
        processor: Processor,
        *,
        memory: int,
        share: Path,
        console: Path,
    ) -> Iterator[Machine]:
        """Boot a machine for the length of the `with` block, until its user can log in.

        `memory` is in MiB. The folder `share` is there as the 9p tag `share`, to read; what the
        serial console says goes to `console`. Raises `RunnerError` when it does not get ready.
        """
        # A short path, for sockets; what a killed one leaves goes with the next.
        with owned.temporary(paths.runtime(), ".lr-") as folder:
            for left in reversed(range(PORTS)):
                machine = cls._launch(image, processor, memory, share, console, folder)
                try:
                    machine.wait_for_ssh(BOOT_SECONDS)
                    break
                except RunnerError:
                    machine.close()
                    # Somebody else got the port between our look and QEMU's.
                    if not left or "host forwarding" not in machine.qemu_words():
                        raise
                except BaseException:  # somebody interrupts the boot
                    machine.close()
                    raise
            try:
                yield machine
            finally:
                machine.close()

    @classmethod
    def _launch(
        cls,
        image: Image,
        processor: Processor,
        memory: int,
        share: Path,
        console: Path,
        folder: Path,
    ) -> Machine:
        port = _free_port()
        (folder / "ssh_config").write_text(
            f"Host *\n  HostName 127.0.0.1\n  Port {port}\n  HostKeyAlias {HOST}\n"
            f"  UserKnownHostsFile {image.known_hosts}\n  StrictHostKeyChecking yes\n"
            f"  IdentityFile {image.key}\n  IdentitiesOnly yes\n  BatchMode yes\n"
            f"  ControlMaster auto\n  ControlPersist yes\n  ControlPath {folder}/%r\n"
            "  ConnectTimeout 60\n  ServerAliveInterval 60\n  ServerAliveCountMax 10\n"
            "  LogLevel ERROR\n"
        )
        words = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"]
        words += ["-M", "q35", "-m", str(memory), *processor.words()]
        # A kernel that panics restarts at once, which ends QEMU: nobody waits for a dead machine.
        words += ["-no-reboot", "-kernel", str(image.kernel), "-initrd", str(image.initrd)]
        words += ["-append", CMDLINE]
        disk = f"if=none,id=root,file={image.disk},format=raw,snapshot=on"
        words += ["-drive", disk, "-device", "virtio-blk-pci,drive=root"]
        words += ["-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22"]
        # This place on the bus is the name enp0s3.
        words += ["-device", "virtio-net-pci,netdev=net,bus=pcie.0,addr=3"]
        virtfs = f"local,path={share},mount_tag=share,security_model=none,readonly=on"
        words += ["-virtfs", virtfs, "-device", "virtio-rng-pci", "-serial", f"file:{console}"]
        console.write_bytes(b"")
        with (folder / "qemu.log").open("wb") as log:
            parent = os.getpid()
            qemu = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=lambda: _end_with_parent(parent),
            )  # fmt: skip
        return cls(qemu, folder, console)

    def qemu_words(self) -> str:
        """Return what QEMU itself said."""
        return (self._folder / "qemu.log").read_text(errors="replace").strip()

    def close(self) -> None:
        """End it, as by pulling the plug."""
        self._qemu.kill()
        self._qemu.wait()

    @property
    def uptime(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.begun

    # --- is it well? ------------------------------------------------------------------------

    def check(self) -> None:
        """Raise `RunnerError` when the machine has died, or its kernel is in trouble."""
        said = self.console.read_text(errors="replace")
        trouble = TROUBLE.search(said, self._seen)
        if trouble:
            begin = said.rfind("\n", 0, trouble.start()) + 1
            line = said[begin : said.find("\n", trouble.end())].strip()
            raise RunnerError(f"its kernel is in trouble after {self.uptime:.0f} s: {line}")
        # A line may be only half there: look at it again.
        self._seen = max(said.rfind("\n"), 0)
        if self._qemu.poll() is not None:
            words = self.qemu_words() or f"status {self._qemu.returncode}"
            raise RunnerError(f"its QEMU has ended after {self.uptime:.0f} s: {words}")

    def wait_for_ssh(self, seconds: float) -> None:
        """Wait until both accounts can be used; raises `RunnerError` when that is not so."""
        deadline = Deadline(seconds, "booting the runner")
        for user in HOMES:
            while not self._answers(user, 60):
                self.check()
                if deadline.passed:
                    raise RunnerError(f"nobody answers as {user} after {seconds:.0f} s")
                time.sleep(LOOK_SECONDS)

    def _answers(self, user: str, seconds: float) -> bool:
        # The control connection stays open, and with it the user's session: between two commands
        # systemd would otherwise take it down, and its /run/user folder.
        words = [*self.ssh(user), "true"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
            )
            return done.returncode == 0
        return False

    # --- commands in it ---------------------------------------------------------------------

    def ssh(self, user: str, *options: str) -> list[str]:
        """Return the words that begin a command in the machine."""
        return ["ssh", "-F", str(self._folder / "ssh_config"), *options, f"{user}@{HOST}"]

    def run(self, user: str, script: str, seconds: float, log: Path | None = None) -> Ended:
        """Run a shell script as a user, in the home folder; its output goes to `log` too.

        Raises `RunnerError` when the machine dies or hangs meanwhile, `TimeoutEndedError` when the
        script does not end in time although the machine is well.
        """
        begun = time.monotonic()
        with contextlib.ExitStack() as opened:
            out = opened.enter_context(
                log.open("w+b") if log else tempfile.TemporaryFile()  # noqa: SIM115
            )
            child = subprocess.Popen(
                [*self.ssh(user), script], stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
            try:
                while child.poll() is None:
                    self.check()
                    if time.monotonic() - begun > seconds:
                        if not self._answers("root", ANSWER_SECONDS):
                            raise RunnerError(f"it hung: no answer for {ANSWER_SECONDS:.0f} s")
                        raise TimeoutEndedError(f"did not end within {seconds:.0f} s")
                    time.sleep(LOOK_SECONDS)
            finally:
                child.kill()
                child.wait()
            out.seek(0)
            output = out.read().decode(errors="replace")
        if child.returncode == 255:  # ssh's own: the machine may have died under it
            self.check()
            if not self._answers("root", ANSWER_SECONDS):
                raise RunnerError("it does not answer any more")
        return Ended(child.returncode, output, time.monotonic() - begun)

    def ok(self, user: str, script: str, seconds: float) -> str:
        """Run a script that serves the runner itself; raises `RunnerError` where it fails."""
        try:
            ended = self.run(user, script, seconds)
        except TimeoutEndedError as late:
            raise RunnerError(f"{_first_line(script)}: {late}") from None
        if ended.status != 0:
            last = " / ".join(ended.output.strip().splitlines()[-3:])
            raise RunnerError(f"{_first_line(script)}: exit status {ended.status}: {last}")
        return ended.output

    def fetch(self, user: str, path: str, target: Path) -> None:
        """Copy a file or folder of the machine into the folder `target`; one that is not is none.

        Raises `RunnerError` where the copy breaks off.
        """
        target.mkdir(parents=True, exist_ok=True)
        folder, _, name = path.rpartition("/")
        script = f"cd {shlex.quote(folder)} 2>/dev/null && [ -e {shlex.quote(name)} ] && "
        script += f"tar -c {shlex.quote(name)} || true"
        with subprocess.Popen(
            [*self.ssh(user), script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as packing:
            # Nothing is packed where there is nothing: tar takes that for an empty archive.
            words = ["tar", "-x", "--no-same-owner", "--ignore-zeros", "-C", str(target)]
            try:
                done = subprocess.run(
                    words, stdin=packing.stdout, capture_output=True, timeout=FETCH_SECONDS,
                    check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                packing.kill()
                raise RunnerError(
                    f"{path} could not be fetched within {FETCH_SECONDS:.0f} s"
                ) from None
        if packing.returncode or done.returncode:
            raise RunnerError(f"{path} could not be fetched: {done.stderr.decode().strip()}")

    def interact(self, user: str, words: Sequence[str]) -> int:
        """Hand the terminal to a shell or a command in the machine; return its exit status.

        Raises `RunnerError` when the machine has died meanwhile.
        """
        terminal = ["-t"] if sys.stdin.isatty() else []
        # ssh joins words with spaces; the shell over there would split them anew.
        command = [shlex.join(words)] if words else []
        status = subprocess.run([*self.ssh(user, *terminal), *command], check=False).returncode
        if status == 255:
            self.check()
        return status


def _first_line(script: str) -> str:
    return script.strip().splitlines()[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_with_parent(parent: int) -> None:
    """In the child: die when the thread that forked does (prctl(2)); here that is the main one."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may be gone already; and in a container it may itself be process 1.
    if os.getppid() != parent:
        os._exit(1)
