"""What a confined QEMU may still do, as the kernel tells it of one that runs."""

from __future__ import annotations

import contextlib
import os
import select
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.errors import HostError
from labctl.guests import launch
from labctl.guests.domain import EMULATOR
from labctl.sandbox import confine
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import last_lines, start_as
from labctl.sandbox.remote import remote

if TYPE_CHECKING:
    import subprocess

SECONDS = 30.0
_MOST = 1 << 16
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""As libvirt writes it (qemuBuildSeccompSandboxCommandLine)."""
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
FILTER = "2"
"""SECCOMP_MODE_FILTER."""


@dataclass(frozen=True)
class Confinement:
    """How far a process is confined, by proc_pid_status(5) and its root."""

    user: int
    """As this process sees it."""
    own_user: bool
    """Whether no other process here is of that user."""
    capabilities: bool
    """Whether it has a capability or could gain one."""
    gains_rights: bool
    """Whether a program that it starts could gain rights (no_new_privs)."""
    seccomp: bool
    files: int
    """How much there is in its root folder."""

    def in_effect(self) -> list[str]:
        """Say what holds."""
        told = {
            "no capability": not (self.capabilities or self.gains_rights),
            f"a user of its own ({self.user})": self.own_user,
            "seccomp": self.seccomp,
            "no file of the host in view": not self.files,
        }
        return [words for words, holds in told.items() if holds]

    def lacking(self) -> list[str]:
        """Say what does not hold that should on any host."""
        told = {
            "has capabilities": self.capabilities,
            "may gain rights": self.gains_rights,
            "has no seccomp filter": not self.seccomp,
            "sees files of the host": bool(self.files),
        }
        return [words for words, holds in told.items() if holds]


def of(pid: int) -> Confinement:
    """Return how a process is confined; raises `OSError`."""
    folder = Path(f"/proc/{pid}")
    lines = (line.partition(":") for line in (folder / "status").read_text().splitlines())
    status = {name: value.split() for name, _, value in lines}
    user = int(status["Uid"][0])
    return Confinement(
        user=user,
        own_user=user != os.geteuid(),
        capabilities=any(int(status[name][0], 16) for name in CAPABILITIES),
        gains_rights=status["NoNewPrivs"] != ["1"],
        seccomp=status["Seccomp"] == [FILTER],
        files=sum(1 for _ in (folder / "root").iterdir()),
    )


@remote
def tried(root: Path) -> Confinement:
    """Start a QEMU without a guest, confined as one with a guest is, and tell how far it is.

    Runs in a lab's sandbox; `root` is a folder there. Raises `HostError`, `OSError`.
    """
    root.mkdir(parents=True, exist_ok=True)
    deadline = Deadline(SECONDS, "trying to confine QEMU")
    with tempfile.TemporaryDirectory(prefix="view-", dir=root) as base:
        child = confine.in_thread(_start, root, Path(base))
        try:
            return of(child.pid)
        finally:
            child.kill()
            child.communicate(timeout=deadline.left)


def _start(root: Path, base: Path) -> subprocess.Popen[bytes]:
    user = launch.own_user()
    launch.confine_thread(base, user, [], [root])
    words = "-no-user-config -nodefaults -display none -machine none -S -qmp stdio -sandbox"
    child = start_as([EMULATOR, *words.split(), SANDBOX], user)
    try:
        assert child.stdout
        assert child.stdin
        # It greets while it starts, and answers when it is in its main loop (qmp-spec): until then
        # it may still open files, which are gone next.
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(b'{"execute": "qmp_capabilities"}\n')
            child.stdin.flush()
        heard = b""
        while heard.count(b"\n") < 2:
            ready = select.select([child.stdout], [], [], SECONDS)[0]
            more = os.read(child.stdout.fileno(), _MOST) if ready else b""
            heard += more
            if not more or len(heard) > _MOST:
                child.kill()
                said = last_lines(child.communicate()[1].decode(errors="replace"))
                raise HostError(f"QEMU does not start confined: {said or 'it does not say why'}")
        confine.empty_view()
    except BaseException:
        child.kill()
        child.wait()
        raise
    return child
