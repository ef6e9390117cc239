"""Dom0 of a Xen host as a place: routers live there, and our functions run there, over ssh.

What a lab does in its own sandbox by pyroute2, it does in a dom0 by the same functions. For that,
dom0 is given this labctl's code and pyroute2's: a Xen host's image has Python, but no copy of ours.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import tarfile
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from labctl.errors import GuestError, LabctlError
from labctl.guests import ssh
from labctl.sandbox import agent
from labctl.sandbox.base import ExecutionContext, Sandbox
from labctl.sandbox.client import Agent, Other
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import WATCH_SECONDS, Result, last_lines

ROOMS = (
    "__init__.py", "version.py", "errors.py", "events.py", "packet", "sandbox", "kinds", "topology",
    "network", "routers",
)  # fmt: skip
"""What runs in dom0, and what that imports."""
DIRECTORY = Path("/run/labctl")
CODE = "code"
SECONDS = 120.0
CALL_SECONDS = 900.0
"""Seconds that a call may take, for root there may let us wait for ever. Minutes prove nothing:
under emulation on a busy machine it took more than five until our code was imported."""


class Dom0(ExecutionContext):
    """Dom0 of a running Xen host."""

    def __init__(
        self, sandbox: Sandbox, host: str, check: Callable[[], None], directory: Path = DIRECTORY
    ) -> None:
        """Hold the dom0 of the node `host` of the lab in `sandbox`.

        `check` raises `GuestError` when the host has ended. `directory` is where dom0 keeps what is
        of the lab; our code is put there.
        """
        super().__init__(directory)
        self._code = directory / CODE
        # As isolated as -P makes it in the sandbox, but for where our code is.
        self.python = ("env", f"PYTHONPATH={self._code}", "python3", "-P")
        self._sandbox = sandbox
        self._host = host
        self._check = check
        self._over = threading.Event()
        self._pid = sandbox.directory / f"dom0-{host}-{os.getpid()}-{id(self)}.pid"

    def words(self, argv: Sequence[str], netns: str = "") -> list[str]:
        """Return the words that run a command in dom0, from outside the lab's sandbox."""
        enter = ["nsenter", f"--net=/run/netns/{netns}", "--"] if netns else []
        line = shlex.join([*enter, *argv])
        return [*self._sandbox.enter(), *self._ssh(), line]

    def runs(self, pid: int, words: str = "") -> bool:
        """Whether the process that has this pid in dom0 runs, with these words."""
        # A zombie has an empty command line.
        line = f"tr '\\0' ' ' </proc/{pid}/cmdline | grep -qF -- {shlex.quote(words)}"
        deadline = Deadline(SECONDS, f"looking for process {pid} in dom0 of {self._host}")
        return self._run(line, deadline).ok

    def _start_agent(self) -> Agent:
        self._check()
        deadline = Deadline(SECONDS, f"giving dom0 of {self._host} its programs")
        line = f"umask 077; mkdir -p {self._code} && tar -xzf - -C {self._code}"
        answer = self._run(line, deadline, packed())
        if not answer.ok:
            self._check()
            raise GuestError(
                f"dom0 of {self._host} cannot be given its programs: {last_lines(answer.stderr)}",
                f"read its console: labctl logs {self._host}",
            )
        log = self.directory / "agent.log"
        line = f"exec {shlex.join([*self.python, '-m', 'labctl.sandbox.agent'])} 2>>{log}"
        # The pid in the sandbox, to end it by.
        # What ssh says goes nowhere: the host may say anything, and this is the user's terminal.
        begin = 'echo $$ >"$0"; exec "$@" 2>/dev/null'
        words = ["sh", "-c", begin, str(self._pid), *self._ssh(), line]
        hint = f"its python3, or what root's shell runs there, may have been changed: {log} there"
        other = Other(f"dom0 of {self._host}", hint, CALL_SECONDS)
        started = Agent.start([*self._sandbox.enter(), *words], self._why_all_closed, other)
        threading.Thread(
            target=self._watch, args=[self._over], daemon=True, name="labctl-dom0"
        ).start()
        return started

    def close(self) -> None:
        """Let go of the agent."""
        self._over.set()
        if self._agent and self._why_closed():
            self._end_ssh()
        super().close()
        self._pid.unlink(missing_ok=True)
        self._over = threading.Event()

    def _watch(self, over: threading.Event) -> None:
        """Let calls to the agent fail when the host ends: ssh would notice minutes later."""
        while not over.wait(WATCH_SECONDS):
            if self._why_closed():
                self._end_ssh()
                return

    def _end_ssh(self) -> None:
        """End the agent's ssh, which waits for an answer of a host that has ended.

        Killed from outside, what leads into the sandbox would leave it behind, and an orphan that
        nobody collects keeps the sandbox from ending.
        """
        with contextlib.suppress(OSError, ValueError, LabctlError):
            self._sandbox.call(agent.kill, int(self._pid.read_text()), signal.SIGTERM)

    def _run(self, line: str, deadline: Deadline, stdin: bytes = b"") -> Result:
        return self._sandbox.agent().run(
            [*self._ssh(), line], deadline, stdin=stdin, check=False, watch=self._check
        )

    def _ssh(self) -> list[str]:
        # A connection of its own: another session's end must not disturb an agent's.
        return ssh.command(self._sandbox.directory, self._host, shared=False)

    def _why_all_closed(self) -> str:
        """Tell of the host's end, or of the lab's."""
        return self._why_closed() or ("" if self._sandbox.lives else "the lab went down meanwhile")

    def _why_closed(self) -> str:
        try:
            self._check()
        except GuestError as ended:
            return ended.message
        except Exception:  # the lab itself is gone, which is what is said then
            return ""
        return ""


def packed() -> bytes:
    """Return a gzipped tar archive of the code that dom0 needs.

    Compiled files go along: they save dom0's one CPU seconds where its Python is of our version.
    """
    archive = io.BytesIO()
    ours = Path(__file__).parents[1]
    spec = find_spec("pyroute2")
    assert spec
    assert spec.origin
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
        for room in ROOMS:
            tar.add(ours / room, f"labctl/{room}")
        tar.add(Path(spec.origin).parent, "pyroute2")
    return archive.getvalue()
