"""How a guest of a lab is: by its QEMU in proc(5), its console and libvirt's file of it.

libvirt itself is not asked: one process at a time has it, which may be busy for a minute.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

from labctl import backends
from labctl.backends.state import State
from labctl.errors import GuestError
from labctl.guests import launch, shutdown
from labctl.sandbox.base import Sandbox


@dataclass(frozen=True)
class Condition:
    """The state of a machine, in a word or two, and why it is in it."""

    state: str
    """`running`, `paused`, `stopped` (its QEMU, by a signal), `halted`, or how it ended:
    `powered off`, `restarted`, `panicked`, else `ended`; `shut off` where that was asked for."""
    why: str = ""

    @property
    def runs(self) -> bool:
        """Whether the guest goes on."""
        return self.state == "running"


RUNNING = Condition("running")
SHUT_OFF = "shut off"
PAUSED = "paused"
_TOLD = {
    "powered off": "has ended: it powered itself off",
    "restarted": "has ended: it restarted itself, which ends a guest of a lab",
    PAUSED: "is paused",
    "stopped": "is stopped: a signal stopped its QEMU",
    SHUT_OFF: "is shut off",
}
_HINTS = {
    "stopped": "let its QEMU go on: kill -CONT",
}
_AGAIN = "take the lab down, and bring it up again"


def of_machine(sandbox: Sandbox, known: State, node: str) -> Condition:
    """Return how the QEMU of a node is; on a real Xen host that cannot be told without asking."""
    backend = backends.of(known.uri)
    folder = backend.libvirt_files(sandbox.directory)
    if folder is None:
        return RUNNING
    domain = backend.domain(known, node)
    log = sandbox.directory / "console" / f"{node}.log"
    pid = launch.pid_in(folder / f"{domain}.pid")
    if not pid or not sandbox.runs(pid, f"guest={domain}"):
        ended, words = shutdown.last_event(log)
        return Condition(ended or "ended", words)
    if sandbox.is_stopped(pid):
        return Condition("stopped")
    if "<domstatus state='paused'" in told_by_libvirt(sandbox, known, node):
        return Condition(PAUSED)
    ended, words = shutdown.last_event(log, lines=shutdown.LAST_LINES)
    if ended in ("halted", "panicked"):  # its QEMU may go on all the same
        return Condition(ended, words)
    return RUNNING


def error(what: str, node: str, found: Condition, *, has_console: bool = True) -> GuestError:
    """Return the error that names a machine, or a namespace, which does not run."""
    told = _TOLD.get(found.state, "has ended")
    if found.state in ("halted", "panicked"):
        told = f"has {found.state}: {found.why}"
    read = f"read what it said last: labctl logs {node}"
    hint = _HINTS.get(found.state, read if has_console else _AGAIN)
    if found.state == PAUSED:
        hint = f"let it go on: labctl start {node}"
    if found.state in (SHUT_OFF, "powered off", "restarted"):
        hint = f"start it: labctl start {node}"
    return GuestError(f"{what} {told}", hint)


def told_by_libvirt(sandbox: Sandbox, known: State, node: str) -> str:
    """Return the XML that libvirt keeps of a running guest; empty where it cannot be read."""
    backend = backends.of(known.uri)
    if folder := backend.libvirt_files(sandbox.directory):
        with contextlib.suppress(OSError):
            file = folder / f"{backend.domain(known, node)}.xml"
            return file.read_text(errors="replace")
    return ""


def taken_down(xml: str) -> set[str]:
    """Return the TAPs whose guests have no carrier, as libvirt was told to take it from them."""
    found = set()
    for interface in re.findall(r"<interface .*?</interface>", xml, re.DOTALL):
        tap = re.search(r"<target dev='([^']+)'", interface)
        if tap and "<link state='down'/>" in interface:
            found.add(tap[1])
    return found
