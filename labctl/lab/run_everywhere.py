"""One command in several nodes and routers beside each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from labctl.errors import LabctlError
from labctl.lab.lab import Lab
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import run

AT_ONCE = 16
"""Commands that run beside each other: each is an ssh(1) on this machine."""


@dataclass(frozen=True)
class Outcome:
    """What came of the command in one of them."""

    name: str
    what: str
    """`node` or `router`."""
    status: int | None
    """Its exit status; None where it could not be run to its end."""
    stdout: str
    stderr: str
    seconds: float
    error: str = ""
    """Why it could not be run to its end."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "name": self.name,
            "is": self.what,
            "status": self.status,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "seconds": round(self.seconds, 3),
            "error": self.error,
        }


def run_everywhere(
    lab: Lab, names: Sequence[str], argv: Sequence[str], timeout: float
) -> Iterator[Outcome]:
    """Run a command, word by word, in nodes and routers; yield what came of it in their order.

    In each it may take `timeout` seconds, and say as much as `labctl.sandbox.process` keeps. What
    goes wrong in one is told in its outcome and does not stop the others.
    """
    done: dict[str, SimpleQueue[Outcome]] = {name: SimpleQueue() for name in names}
    room = threading.Semaphore(AT_ONCE)

    def work(name: str) -> None:
        with room:
            done[name].put(_one(lab, name, argv, timeout))

    for name in names:
        # As a daemon: who interrupts labctl does not wait for the slowest.
        threading.Thread(target=work, args=(name,), daemon=True, name=f"run-{name}").start()
    for name in names:
        yield done[name].get()


def _one(lab: Lab, name: str, argv: Sequence[str], timeout: float) -> Outcome:
    begun = time.monotonic()
    router = lab.topology.routers.get(name)
    what = "router" if router else "node"
    try:
        if router:
            deadline = Deadline(timeout, f"`{argv[0]}` in {name}")
            words = lab.place(router.host).words(argv, netns=name)
            found = run(words, deadline=deadline, check=False)
            if found.cut:
                raise LabctlError(f"{name} said too much, and the command was ended")
        else:
            found = lab.node(name).run(argv, check=False, timeout=timeout)
    except Exception as wrong:  # a thread's error would be lost, and this one waited for
        why = (
            wrong.message if isinstance(wrong, LabctlError) else f"{type(wrong).__name__}: {wrong}"
        )
        return Outcome(name, what, None, "", "", time.monotonic() - begun, why)
    seconds = time.monotonic() - begun
    return Outcome(name, what, found.status, found.stdout, found.stderr, seconds)
