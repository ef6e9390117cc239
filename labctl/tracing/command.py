"""A command of the user's in a guest, for as long as it, or what is to be seen of it, goes on."""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Callable

from labctl.lab.node import Node
from labctl.sandbox.deadline import Deadline

LOOK_SECONDS = 0.1
END_COMMAND = """for n in 1 2 3; do for p in /proc/[0-9]*; do
  grep -q {mark} $p/environ 2>/dev/null && [ ${{p#/proc/}} != $$ ] && kill -9 ${{p#/proc/}}
done; done"""
"""Ends a command and all it has started, which are known by what is in their environment."""
SAID_LINES = 50
"""Of what it says."""


def run_command(
    node: Node,
    line: str,
    longest: float,
    enough: Callable[[], bool],
    asking: Callable[[], float],
) -> tuple[list[str], list[str]]:
    """Let a node's shell run a line until it ends, `enough` says so, or `longest` seconds are over.

    Then all that it has started is ended too, by a command that may take `asking` seconds. Returns
    what it said, at last its exit status where that is not 0, and a note where it was ended. Raises
    what `enough` raises, and `LabctlError` where the node does not answer.
    """
    mark = f"LABCTL_TRACE={secrets.token_hex(8)}"
    deadline = Deadline(longest, "a command")
    notes: list[str] = []
    job = node.start(shlex.join(["env", mark, "sh", "-c", line]))
    try:
        while (status := job.poll()) is None:
            if enough():
                notes.append("the command was ended: enough packets had come")
                break
            if deadline.passed:
                notes.append(f"the command was ended: it ran for {longest:.0f} s")
                break
            time.sleep(LOOK_SECONDS)
    finally:
        if job.poll() is None:
            node.run(END_COMMAND.format(mark=mark), check=False, timeout=asking())
        job.stop()
    text = job.output + job.errors
    said = [one.strip()[:200] for one in text.splitlines() if one.strip()][:SAID_LINES]
    return ([*said, f"exit status {status}"] if status else said), notes
