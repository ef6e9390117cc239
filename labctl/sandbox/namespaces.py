"""A sandbox: namespaces of its own, their PID 1, and the ways in.

Everything of a lab lives in one sandbox. When its PID 1 dies the kernel removes all of it:
pid_namespaces(7) kills every process in it, and the links, mounts and named namespaces go with the
last of them. Nothing of the host is touched.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from labctl.errors import HostError, LabctlError, host_error
from labctl.sandbox import (
    atomic,
    codec,
    init_scan,
    namespace_permission,
    owned,
    process,
    trusted,
)
from labctl.sandbox.base import Sandbox
from labctl.sandbox.client import Agent
from labctl.sandbox.deadline import Deadline

START_SECONDS = 120.0
"""It takes some hundredths of a second; a machine with a load of 15 took 30 seconds once."""
END_SECONDS = 30.0
ASK_SECONDS = 5.0
LOCK_POLL_SECONDS = 0.02
BUSY = "this machine may have too much to do (uptime tells): try again when it has less"
IDENTITY = "world.json"
SO_PASSCRED = 16
OWN_SYS = 'mount -t sysfs -o ro,nosuid,nodev,noexec labctl /sys 2>/dev/null; exec "$@"'
_FAULT = "run: labctl doctor"


@dataclass(frozen=True)
class Identity:
    """What tells a sandbox's PID 1 from a later process that got the same number."""

    pid: int
    mark: str
    """The mark in its command line, which no other sandbox has (`labctl.sandbox.init_scan`)."""
    user: bool
    """Whether the sandbox has a user namespace of its own (made by an ordinary user)."""

    @classmethod
    def told(cls, data: bytes) -> Identity:
        """Return what a file says; further fields are a newer labctl's. Raises `ValueError`."""
        try:
            plain = codec.parse(data)
            if isinstance(plain, dict):
                plain = {one.name: plain[one.name] for one in fields(cls) if one.name in plain}
            identity: Identity = codec.read(plain, cls)
        except codec.CodecError as wrong:
            raise ValueError(str(wrong)) from None
        return identity

    @property
    def alive(self) -> bool:
        """Whether that very process still runs."""
        return bool(self.mark) and init_scan.mark_of(self.pid) == self.mark


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; -1 when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return -1
    fields = stat.rpartition(")")[2].split()
    return -1 if fields[0] in "ZX" else int(fields[19])


class Namespaces(Sandbox):
    """A sandbox made of namespaces: network, mount and process, and user where not root."""

    def __init__(self, directory: Path, identity: Identity) -> None:
        """Hold a running sandbox; `create` and `attach` make one."""
        super().__init__(directory)
        self.identity = identity
        self._lifeline: socket.socket | None = None
        self._shell: subprocess.Popen[bytes] | None = None

    @classmethod
    def create(cls, directory: Path, agent: Agent | None = None) -> Namespaces:
        """Make a sandbox whose directory is `directory` (made here, private, must not exist).

        An `agent` that was started ahead becomes the sandbox's.
        It ends when this process ends, however that happens, unless `keep` is called.
        Raises `HostError` where the host forbids it, with what to change.
        """
        user = os.geteuid() != 0
        was_made = owned.is_made(directory)
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
        words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        if user:
            # With one id alone, root's, a lab works too.
            further = [] if namespace_permission.no_ids() else ["--map-auto"]
            words[1:1] = ["--user", "--map-root-user", *further]
        mark = init_scan.new_mark()
        log = directory / "init.log"
        shell = None
        try:
            owned.make(directory)  # here: a signal may end us before this is known
            with theirs, log.open("wb") as errors:
                shell = subprocess.Popen(
                    [*words, sys.executable, "-I", "-S", str(init_scan.PROGRAM), str(directory),
                     str(theirs.fileno()), mark],
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    pass_fds=[theirs.fileno()],
                    env=process.environment(),
                    start_new_session=True,
                )  # fmt: skip
            pid = _wait_ready(ours, log, shell.pid)
            sandbox = cls(directory, Identity(pid, mark, user))
            atomic.write(directory / IDENTITY, codec.dumps(sandbox.identity, Identity))
        except BaseException as error:
            ours.close()
            theirs.close()
            if shell:
                # Not yet waited for, so the group is still its own.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(shell.pid, signal.SIGKILL)
                shell.wait(END_SECONDS)
            if not was_made:
                owned.remove(directory)
            if isinstance(error, FileExistsError):
                raise
            told = host_error(error, directory) if isinstance(error, OSError) else None
            if isinstance(error, FileNotFoundError) and error.filename == words[0]:
                told = HostError(f"{words[0]} is not installed", "apt-get install util-linux")
            raise told or error from None
        sandbox._lifeline, sandbox._shell = ours, shell
        if agent:
            agent.why_closed = sandbox.why_closed
            agent.enter_sandbox(pid, user)
            sandbox._agent = agent
        return sandbox

    @classmethod
    def attach(cls, directory: Path) -> Namespaces:
        """Return the running sandbox of `directory`.

        Raises `FileNotFoundError` when the directory holds no sandbox, `ValueError` when it cannot
        be told which, `LabctlError` when its PID 1 is gone or somebody else could have named it.
        """
        inside = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            identity = _read_identity(inside, directory)
            held = _is_locked(inside)
        finally:
            os.close(inside)
        if not identity.alive:
            if held:
                raise _elsewhere(directory)
            raise LabctlError(f"the sandbox of {directory} has ended", "run: labctl down")
        return cls(directory, identity)

    @property
    def lives(self) -> bool:
        """Whether the sandbox's PID 1 runs."""
        return self.identity.alive

    def keep(self) -> None:
        """Let the sandbox outlive this process; raises `LabctlError` when it has ended."""
        if self._lifeline:
            with contextlib.suppress(OSError):
                self._lifeline.send(b"keep")
            if not self.identity.alive:
                raise LabctlError("the lab went down meanwhile", "bring it up again")
            self._lifeline.close()
            self._lifeline = None
            self._shell = None

    def enter(self, netns: str = "") -> list[str]:
        """Return the nsenter(1) words that run a command in the sandbox or a named namespace."""
        words = ["nsenter", "--target", str(self.identity.pid), "--mount", "--pid"]
        words.append(f"--net={self._netns(netns)}" if netns else "--net")
        # As ip-netns(8) does it: the links in /sys are those of the named namespace.
        own_sys = ["unshare", "--mount", "--", "sh", "-c", OWN_SYS, "sh"] if netns else []
        if not self.identity.user:
            return [*words, "--", *own_sys]
        # nsenter(1) would leave the user's groups, by one of which QEMU may open /dev/kvm. They are
        # root in there already; but the group they act in may be another than the maker's was.
        keep = ["--user", "--preserve-credentials", "--", "setpriv", "--regid=0", "--keep-groups"]
        return [*words, *keep, "--", *own_sys]

    def _netns(self, name: str) -> str:
        # Named namespaces live on the sandbox's private /run, reached through its PID 1's root.
        return f"/proc/{self.identity.pid}/root/run/netns/{name}"

    def process(self, pid: int) -> Path:
        """Return the folder of proc(5) of the process that has this pid inside the sandbox."""
        return Path(f"/proc/{self.identity.pid}/root/proc/{pid}")

    def end(self) -> None:
        """End the sandbox and remove its directory, whatever state they are in."""
        self.close()
        end(self.directory, self.identity)
        if self._lifeline:
            self._lifeline.close()
            self._lifeline = None
        if self._shell:
            self._shell.wait(END_SECONDS)
            self._shell = None


def _wait_ready(lifeline: socket.socket, log: Path, shell: int) -> int:
    """Wait for PID 1's word; return its pid as this process sees it (unix(7), SCM_CREDENTIALS).

    Where unshare(1) may make no namespaces it ends, but leaves a child that was to write the map of
    ids and waits for ever, holding the other end of the lifeline: so its own end counts.
    """
    handle = os.pidfd_open(shell)
    try:
        readable = select.select([lifeline.fileno(), handle], [], [], START_SECONDS)[0]
    finally:
        os.close(handle)
    if not readable:
        raise Deadline(START_SECONDS, "making the sandbox").error(hint=BUSY)
    if lifeline.fileno() not in readable:
        raise _told("", log)
    credentials = array.array("i", [0, 0, 0])
    data, ancillary, _, _ = lifeline.recvmsg(4096, socket.CMSG_SPACE(credentials.itemsize * 3))
    if data != b"ready":
        raise _told(data.decode(errors="replace"), log)
    credentials = array.array("i")
    credentials.frombytes(ancillary[0][2])
    return credentials[0]


def _told(said: str, log: Path) -> HostError:
    """Return the error that says why PID 1 is not ready, by what it said; unshare(1) has a log."""
    word, _, rest = said.partition(": ")
    if word == "failed":
        number, _, file = rest.partition(" ")
        failed = OSError(int(number), os.strerror(int(number)), file)
        return host_error(failed) or HostError(f"a sandbox cannot be made: {failed}", _FAULT)
    words = process.last_lines(log.read_text(errors="replace"))
    if word != "refused" and not words:
        try:
            log.write_text("nothing was said\n")
        except OSError as full:  # so its words may be lost
            return host_error(full, log) or HostError(f"{log}: {full.strerror}")
    if word != "refused" and not re.search(r"\b(unshare|new[ug]idmap):", words):
        words = words or "without a word"
        return HostError(f"the first process of a sandbox has ended: {words}", _FAULT)
    reason = rest or words
    return HostError(
        f"this host does not let labctl make namespaces: {reason}",
        namespace_permission.hint(reason),
    )


def end(directory: Path, only: Identity | None = None) -> None:
    """End the sandbox of `directory`, if it runs, and remove the directory.

    One that labctl has not made is left alone, and so is, with `only`, a later sandbox that has
    come to lie there. Raises `DeadlineError` when PID 1 does not go, `LabctlError` when the sandbox
    runs but its PID 1 is not to be seen from here.
    """
    with contextlib.ExitStack() as opened:
        inside = -1
        made = False
        # Opened before anything ends: whoever waits for the name may have it as soon as it is free,
        # and theirs is another directory.
        with contextlib.suppress(OSError):
            inside = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            opened.callback(os.close, inside)
            made = owned.bears_mark(inside, directory)
        identity = identity_in(inside, directory) if made else None
        others = only is not None and identity != only
        if sandbox := only or identity:
            end_process(sandbox, directory)
        if made and not others:
            # The lock of a PID 1 that somebody else has ended goes last: after what the directory
            # tells of it, and after what shows in /proc that it is the one meant (do_exit gives up
            # its memory before its files).
            if _is_locked(inside, ASK_SECONDS):
                raise _elsewhere(directory)
            owned.remove_handle(directory, inside)


def identity_in(inside: int, directory: Path) -> Identity | None:
    """Return what the directory open as `inside` tells of its sandbox; None where that is nothing.

    What somebody else could have written is nothing: the process that it names would be ended.
    """
    try:
        return _read_identity(inside, directory)
    except (OSError, ValueError, LabctlError):
        return None


def _read_identity(inside: int, directory: Path) -> Identity:
    """Read a sandbox's identity; raises `OSError`, `ValueError` or `LabctlError` where none is."""
    trusted.check(inside, directory)
    return Identity.told(trusted.read(IDENTITY, inside, directory / IDENTITY))


def end_process(identity: Identity, directory: Path) -> None:
    """End a sandbox's PID 1, if it runs: all of it goes with it, and first its directory."""
    with contextlib.suppress(OSError, ValueError, OverflowError), _pidfd(identity) as handle:
        # Asked to end, PID 1 removes the directory as well, so nothing stays even if this process
        # is killed meanwhile; one that does not answer is killed.
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if not select.select([handle], [], [], ASK_SECONDS)[0]:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        # A pidfd is readable when its process is gone, and PID 1 goes after all the others
        # (zap_pid_ns_processes).
        if not select.select([handle], [], [], END_SECONDS)[0]:
            raise Deadline(END_SECONDS, f"ending the sandbox of {directory}").error()


def _is_locked(inside: int, seconds: float = 0) -> bool:
    """Whether a directory is still locked after some seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(inside, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: others may ask just now
            break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return True
            time.sleep(LOCK_POLL_SECONDS)
    fcntl.flock(inside, fcntl.LOCK_UN)
    return False


def _elsewhere(directory: Path) -> LabctlError:
    return LabctlError(
        f"lab {directory.name} runs, but its processes are not to be seen from here",
        "do it where the lab was brought up, outside of this container or process namespace",
    )


@contextlib.contextmanager
def _pidfd(identity: Identity) -> Iterator[int]:
    """Open a handle on that very process; raises `ProcessLookupError` when it is gone."""
    handle = os.pidfd_open(identity.pid)
    try:
        if not identity.alive:  # checked after opening: the handle cannot change its process
            raise ProcessLookupError(identity.pid)
        yield handle
    finally:
        os.close(handle)
