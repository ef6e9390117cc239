"""One verb, and the signal that comes upon it."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from live import Place, Watch

from . import victims
from .disk import MEBIBYTE, Disk
from .plan import Round
from .processes import Processes

END_SECONDS = 240.0
"""In which a verb ends after a signal. The longest deadline of labctl's own that it may have to
wait for, on a busy machine."""
PAGE = os.sysconf("SC_PAGE_SIZE")
NEW = ("agent", "observer", "other")
"""Roles of which only processes are meant that the verb itself has started."""


@dataclass(frozen=True)
class Done:
    """A verb that has ended."""

    status: int | None
    """None: it did not end."""
    stderr: str
    seconds: float
    """From its start to its end."""
    after: float = 0.0
    """From its start to the signal."""
    struck: bool = False


@dataclass(frozen=True)
class Scarce:
    """What a round may make scarce besides what a process is limited in by itself."""

    disk: Disk
    processes: Processes

    def mend(self) -> None:
        """Let there be enough of all again."""
        self.disk.mend()
        self.processes.mend()


def strike(
    where: Place, watch: Watch, scarce: Scarce, words: tuple[str, ...], one: Round, usual: float
) -> Done:
    """Run a verb and send the signal of a round while it runs, or let something run short."""
    before = watch.processes()
    with where.start(*words, group=True) as running:
        begun = time.monotonic()
        due = begun + one.moment * usual
        struck = False
        while not struck and running.child.poll() is None:
            time.sleep(0.002)
            if time.monotonic() >= due:
                if one.is_kill:
                    struck = _send(one, running.child.pid, watch, before)
                else:
                    struck = _starve(one, running.child.pid, scarce)
        after = time.monotonic() - begun
        status: int | None = None
        with suppress(subprocess.TimeoutExpired):
            status = running.wait(END_SECONDS)
        scarce.mend()
        seconds = time.monotonic() - begun
        stderr = running.log.read_text(errors="replace")
        running.log.unlink()
    return Done(status, stderr, seconds, after, struck)


def undisturbed(where: Place, words: tuple[str, ...]) -> Done:
    """Run a verb to its end."""
    begun = time.monotonic()
    done = where.run(*words)
    return Done(done.status, done.stderr, time.monotonic() - begun)


def _send(one: Round, labctl: int, watch: Watch, before: set[int]) -> bool:
    processes = watch.processes()
    if one.victim in NEW:
        processes -= before
    found = victims.find(one.victim, processes, labctl)
    if not found:
        return False
    # Of several the seed chooses: the moment has as many digits as that needs.
    victim = found[int(one.moment * 1e6) % len(found)]
    watch.note()
    number = signal.Signals[f"SIG{one.signal}"]
    try:
        if one.victim == "labctl" and one.signal in ("INT", "HUP"):
            os.killpg(victim, number)  # as a terminal does
        else:
            os.kill(victim, number)
        if one.signal == "STOP":
            time.sleep(one.pause)
            os.kill(victim, signal.SIGCONT)
    except ProcessLookupError:
        return False
    return True


def _starve(one: Round, labctl: int, scarce: Scarce) -> bool:
    """Take something away from labctl; what it is, and how much, follows from the round."""
    try:
        if one.signal == "FULL":
            scarce.disk.fill()
        elif one.signal == "READONLY":
            scarce.disk.protect()
        elif one.signal == "PROCESSES":
            scarce.processes.limit(labctl, int(one.pause * 4))
        elif one.signal == "FILES":
            most = 4 + int(one.pause * 10)
            resource.prlimit(labctl, resource.RLIMIT_NOFILE, (most, most))
        else:
            now = int(Path(f"/proc/{labctl}/statm").read_text().split()[0]) * PAGE
            most = now + int(one.pause * 4 * MEBIBYTE)
            resource.prlimit(labctl, resource.RLIMIT_AS, (most, most))
    except (ProcessLookupError, FileNotFoundError):
        return False
    except OSError as busy:  # a file is open for writing, perhaps a moment only
        if busy.errno != errno.EBUSY:
            raise
        return False
    return True
