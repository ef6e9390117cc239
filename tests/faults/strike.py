"""One verb, and the signal that comes upon it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass

from live import Place, Watch

from . import victims
from .plan import Round

END_SECONDS = 240.0
"""In which a verb ends after a signal. The longest deadline of labctl's own that it may have to
wait for, on a busy machine."""
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


def strike(where: Place, watch: Watch, words: tuple[str, ...], one: Round, usual: float) -> Done:
    """Run a verb and send the signal of a round while it runs."""
    before = watch.processes()
    with where.start(*words, group=True) as running:
        begun = time.monotonic()
        due = begun + one.moment * usual
        struck = False
        while not struck and running.child.poll() is None:
            time.sleep(0.002)
            if time.monotonic() >= due:
                struck = _send(one, running.child.pid, watch, before)
        after = time.monotonic() - begun
        status: int | None = None
        with suppress(subprocess.TimeoutExpired):
            status = running.wait(END_SECONDS)
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
