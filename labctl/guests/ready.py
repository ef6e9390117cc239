"""When a guest is ready, or why it will not be: its console's words, and its first command."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from labctl.errors import DeadlineError, GuestError
from labctl.guests import console, ssh
from labctl.guests.spec import Guest
from labctl.kinds import registry
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import Result, run

TROUBLE = b"labctl: error:"
PANIC = b"Kernel panic - not syncing"
XEN_PANIC = re.compile(r"Panic on CPU \d{1,5}:\n\(XEN\) (.*)")
_LONGEST_LINE = 300
"""Characters that an error quotes of what a guest said."""
READY_SECONDS = 240.0
"""A guest under TCG on a busy machine takes tens of seconds; this only catches the dead."""
LOOK_SECONDS = 0.02
ALIVE_SECONDS = 0.25
"""How often to ask libvirt whether a booting guest still runs; asking costs the guest CPU time."""
NO_CARRIER = "labctl: no carrier on"
CARRIER_TRIES = 400
KNOCK_SECONDS = 2.0
"""How often to try SSH on a guest whose console never says `ready` (a user's own image)."""

VMSTAT = Path("/proc/vmstat")


def first_command(guest: Guest) -> str:
    """Return what a guest runs to prove that it is ready.

    Emulated NICs of real hardware negotiate for two seconds before they have a carrier; virtio has
    it at once.
    """
    slow = [nic.name for nic in guest.nics if not registry.nic(nic.model).instant_carrier]
    if not slow:
        return "true"
    return (
        f"for i in {' '.join(slow)}; do n=0; "
        'until [ "$(cat /sys/class/net/$i/carrier 2>/dev/null)" = 1 ]; do n=$((n + 1)); '
        f'[ $n -lt {CARRIER_TRIES} ] || {{ echo "{NO_CARRIER} $i" >&2; exit 1; }}; '
        "sleep 0.1; done; done"
    )


def wait_ready(
    alive: Callable[[], bool], guest: Guest, directory: Path, give_up: threading.Event
) -> None:
    """Wait until a command has run in the guest, or `give_up` is set.

    The console's word says when to knock, so that no time is lost in TCP's and neighbour
    discovery's retries; a guest that never says it is knocked at all the same.
    """
    deadline = Deadline(READY_SECONDS, f"booting {guest.name}")
    word = guest.ready.encode()
    log = console.Watcher(guest.log, *filter(None, (word, TROUBLE, PANIC)))
    knock_at = time.monotonic() + (15 * KNOCK_SECONDS if word else 0)
    ask_at = time.monotonic()
    killed = oom_kills()

    def check() -> None:
        nonlocal ask_at
        if give_up.is_set():
            raise GuestError(f"{guest.name} was given up: another guest failed")
        log.look()
        _check_troubles(guest, log)
        # After a panic it starts again: it would go on for ever.
        ended = PANIC in log.said
        if not ended and time.monotonic() >= ask_at:
            ended, ask_at = not alive(), time.monotonic() + ALIVE_SECONDS
        if ended:
            raise _killed(guest) if not panic(guest) and oom_kills() > killed else _died(guest)

    while True:
        log.look()
        said = word in log.said
        if said or time.monotonic() > knock_at:
            words = [*ssh.command(directory, guest.name), first_command(guest)]
            limit = Deadline(min(60.0, deadline.left or 1.0), f"first command in {guest.name}")
            answer = _knock(words, limit, check)
            if answer and answer.ok:
                break
            if answer and NO_CARRIER in answer.stderr:
                raise GuestError(
                    f"{guest.name} sees no carrier on {answer.stderr.split()[-1]}",
                    "use another NIC model, or read its console: labctl logs " + guest.name,
                    console.tail(guest.log),
                )
            knock_at = time.monotonic() + KNOCK_SECONDS
        check()
        if deadline.passed:
            raise deadline.error(
                "its console's last lines are below",
                "is the machine overloaded, or the kernel without drivers for these interfaces?",
                console.tail(guest.log),
            )
        time.sleep(LOOK_SECONDS if not said else KNOCK_SECONDS / 4)
    log.look()
    _check_troubles(guest, log)


def _knock(words: Sequence[str], limit: Deadline, check: Callable[[], None]) -> Result | None:
    """Run a guest's first command; None when there was no answer."""
    try:
        return run(words, deadline=limit, check=False, package="openssh-client", watch=check)
    except DeadlineError:
        return None


def oom_kills() -> int:
    """Return how many processes this host has killed for want of memory since it was booted.

    Also those of a control group alone (proc_vmstat(5), oom_kill; Linux 4.13).
    """
    with contextlib.suppress(OSError, ValueError):
        for line in VMSTAT.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _killed(guest: Guest) -> GuestError:
    return GuestError(
        f"{guest.name} was killed while booting: there was not enough memory",
        "end other programs, or give the container (its control group) more memory",
        console.tail(guest.log),
    )


def _died(guest: Guest) -> GuestError:
    """Build the error of a guest that ended before it was ready, with what its kernel said."""
    why = panic(guest)
    why = f": {why}" if why else ""
    kernel = guest.dom0.kernel if guest.dom0 else guest.kernel
    return GuestError(
        f"{guest.name} died while booting{why}; its console's last lines are below",
        f"is {kernel} a kernel for {'dom0' if guest.dom0 else 'this machine'}?",
        console.tail(guest.log),
    )


def panic(guest: Guest) -> str:
    """Return the last words of a guest's kernel, or of Xen, on the console; empty without any."""
    said = console.end(guest.log).replace("\r", "")
    if found := re.search(f"{PANIC.decode()}(.*)", said):
        return f"kernel panic{found[1][:_LONGEST_LINE]}"
    if found := XEN_PANIC.search(said):
        return f"Xen panicked: {found[1][:_LONGEST_LINE]}"
    return ""


def _check_troubles(guest: Guest, log: console.Watcher) -> None:
    """Raise `GuestError` with the first trouble that its init told of, a whole line."""
    if text := log.line(TROUBLE):
        raise GuestError(
            f"{guest.name} could not take its configuration: {text[:_LONGEST_LINE]}",
            "change that line of the topology, or use an image that can do it",
            console.tail(guest.log),
        )
