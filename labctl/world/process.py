"""The one gate to other programs: a fixed small environment, a deadline, a readable failure."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labctl.errors import HostError, LabctlError
from labctl.world.deadline import Deadline

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    # libvirt writes warnings about our own choices to standard error; its errors are exceptions.
    # It reads this when it is imported (virLogSetFromEnv), so it must be there from the start.
    "LIBVIRT_DEBUG": "4",
}


class CommandError(LabctlError):
    """A program said no; the message holds the command, ready to paste, and its last words."""


@dataclass(frozen=True)
class Result:
    """What a finished program left: its exit status and its output, decoded."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether it exited with 0."""
        return self.status == 0


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment every program gets: `ENVIRONMENT`, `extra`, HOME and the SSH agent.

    The user's agent is for a real Xen host; inside a lab only its own keys count.
    """
    agent = {name: os.environ[name] for name in ("SSH_AUTH_SOCK",) if name in os.environ}
    return {**ENVIRONMENT, "HOME": os.environ.get("HOME", "/"), **agent, **(extra or {})}


def last_words(text: str, lines: int = 3) -> str:
    """Return the last non-empty `lines` of `text` on one line, for an error message."""
    kept = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(kept[-lines:])


def run(
    argv: Sequence[str],
    *,
    deadline: Deadline,
    stdin: bytes = b"",
    check: bool = True,
    env: Mapping[str, str] | None = None,
    package: str = "",
) -> Result:
    """Run a program to its end.

    `package` names the Debian package that holds it, for the hint when it is missing.
    Raises `CommandError` when it exits with other than 0 and `check` is set, `DeadlineError` when
    it does not end in time (it is killed), `HostError` when it is not installed.
    """
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            timeout=deadline.left,
            env=environment(env),
            check=False,
        )
    except FileNotFoundError:
        hint = f"install it: apt-get install {package}" if package else "run: labctl doctor"
        raise HostError(f"{argv[0]} is not installed", hint) from None
    except subprocess.TimeoutExpired as late:
        output = (late.stderr or b"") + (late.stdout or b"")
        raise deadline.error(
            f"{shlex.join(argv)}: {last_words(output.decode(errors='replace'))}"
        ) from None
    result = Result(
        tuple(argv),
        done.returncode,
        done.stdout.decode(errors="replace"),
        done.stderr.decode(errors="replace"),
    )
    if check and not result.ok:
        words = last_words(result.stderr or result.stdout)
        raise CommandError(f"{shlex.join(argv)} exited with {result.status}: {words}")
    return result
