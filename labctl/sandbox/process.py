"""The one gate to other programs: a fixed small environment, a deadline, a readable failure."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.errors import HostError, LabctlError, clean
from labctl.sandbox.bounded import collect
from labctl.sandbox.deadline import Deadline

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    # libvirt writes warnings about our own choices to standard error; its errors are exceptions.
    # It reads this when it is imported (virLogSetFromEnv), so it must be there from the start.
    "LIBVIRT_DEBUG": "4",
}


WATCH_SECONDS = 1.0
"""How often a long run is looked after."""
MOST_OUTPUT = 4 << 20
"""Bytes of each output of a program: far more than any that is read here says."""
LONGEST_WORDS = 300
"""Characters of a line that an error quotes."""


class CommandError(LabctlError):
    """A program said no; the message holds the command, ready to paste, and its last words."""


@dataclass(frozen=True)
class Result:
    """What a finished program left: its exit status and its output, decoded."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
    cut: bool = False
    """Whether it said more than was to be kept, and was ended for it."""

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


def last_lines(text: str, lines: int = 3) -> str:
    """Return the last non-empty `lines` of `text` on one line, for an error message.

    Whoever wrote it may be a guest: it is made clean, and cut where it is long.
    """
    end = text[-lines * 4 * LONGEST_WORDS :]
    kept = [line.strip() for line in end.splitlines() if line.strip()]
    return " / ".join(clean(_cut(line)) for line in kept[-lines:])


def _cut(text: str) -> str:
    """Return a text on one line that is not too long for a message."""
    line = " ".join(text[: 2 * LONGEST_WORDS].split())
    return line if len(line) <= LONGEST_WORDS else f"{line[: LONGEST_WORDS - 1]}…"


def run(
    argv: Sequence[str],
    *,
    deadline: Deadline,
    stdin: bytes = b"",
    check: bool = True,
    env: Mapping[str, str] | None = None,
    package: str = "",
    watch: Callable[[], None] | None = None,
    most: int = MOST_OUTPUT,
) -> Result:
    """Run a program to its end.

    `package` names the Debian package that holds it, for the hint when it is missing. `watch` is
    called every second while it runs, and may raise what makes waiting on pointless: the program
    is killed then.
    One that says more than `most` bytes is killed, and its result is `cut`. Raises `CommandError`
    when it is cut or exits with other than 0 and `check` is set, `DeadlineError` when it does not
    end in time (it is killed), `HostError` when it is not installed.
    """
    try:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(env),
        )
    except FileNotFoundError:
        hint = f"install it: apt-get install {package}" if package else "run: labctl doctor"
        raise HostError(f"{argv[0]} is not installed", hint) from None
    with child, _watching(child, watch):
        try:
            stdout, stderr, over = collect(child, stdin, most, deadline)
        except subprocess.TimeoutExpired as late:
            child.kill()
            output = (late.stderr or b"") + (late.stdout or b"")
            words = last_lines(output.decode(errors="replace"))
            raise deadline.error(": ".join(filter(None, (_cut(shlex.join(argv)), words)))) from None
        except BaseException:
            child.kill()
            raise
    if over and check:
        words = last_lines((stderr or stdout).decode(errors="replace"), 1)
        raise CommandError(
            f"{_cut(shlex.join(argv))} said more than {most >> 10} KiB and was ended: {words}"
        )
    result = Result(
        tuple(argv),
        child.returncode,
        stdout.decode(errors="replace"),
        stderr.decode(errors="replace"),
        over,
    )
    if check and not result.ok:
        words = last_lines(result.stderr or result.stdout)
        raise CommandError(f"{shlex.join(argv)} exited with {result.status}: {words}")
    return result


def start_as(
    argv: Sequence[str],
    user: int | None,
    *,
    group: int | None = None,
    files: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a program with pipes, as a user by its number and of no group but `group`.

    That is by default the user's number; a user of None is this process's own. The program has
    these open `files` under their numbers. Raises `OSError`.
    """
    pipe = subprocess.PIPE
    return subprocess.Popen(
        argv, stdin=pipe, stdout=pipe, stderr=pipe, env=environment(), pass_fds=files,
        user=user, group=user if group is None else group,
        extra_groups=None if user is None else [],
    )  # fmt: skip


def start_group(
    argv: Sequence[str], env: Mapping[str, str], log: int, folder: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own; its input ends when this process does.

    What it says goes to the open file `log`; it gets `env` besides what every program gets, and
    works in `folder`, where one is named. Raises `OSError`.
    """
    return subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment(env), process_group=0,
        cwd=folder,
    )  # fmt: skip


@contextlib.contextmanager
def _watching(child: subprocess.Popen[bytes], watch: Callable[[], None] | None) -> Iterator[None]:
    """Call `watch` again and again in the `with` block; what it raises kills the child."""
    if watch is None:
        yield
        return
    over = threading.Event()
    raised: list[BaseException] = []

    def look() -> None:
        while not over.wait(WATCH_SECONDS):
            try:
                watch()
            except BaseException as error:
                raised.append(error)
                child.kill()
                return

    # Not communicate() with short timeouts: called again, it forgets the rest of the input.
    watcher = threading.Thread(target=look, daemon=True, name="labctl-watch")
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        if raised:
            raise raised[0]
