"""When a guest is ready, or why it will not be: its console's words, and its first command."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from labctl.errors import DeadlineError, GuestError, clean
from labctl.guests import console, console_steps, ssh, tools
from labctl.guests.spec import Guest, peers_script
from labctl.kinds import registry
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import Result, last_lines, run

TROUBLE = b"labctl: error:"
TROUBLE_TOLD = re.compile(rf"^{TROUBLE.decode()} ?(.*)$", re.MULTILINE)
PANIC = b"Kernel panic - not syncing"
XEN_PANIC = re.compile(r"Panic on CPU \d{1,5}:\n\(XEN\) (.*)")
NOTHING_BOOTS = (b"No bootable device", b"BdsDxe: No bootable option", b"UEFI Interactive Shell")
"""What a BIOS (SeaBIOS, src/boot.c) says when no disk has a system; what UEFI (EDK II, BdsDxe) says
then, or starts, as Debian's does."""
_LONGEST_LINE = 300
"""Characters that an error quotes of what a guest said."""
READY_SECONDS = 240.0
"""A guest under TCG on a busy machine takes tens of seconds; this only catches the dead."""
LOOK_SECONDS = 0.02
GROW_SECONDS = 0.25
"""How long to wait for a console to say more before looking after its guest."""
CLONE_SECONDS = 60.0
"""A clone takes less than a second; after this it is better to boot one."""
ALIVE_SECONDS = 0.25
"""How often to ask libvirt whether a booting guest still runs; asking costs the guest CPU time."""
NO_CARRIER = "labctl: no carrier on"
CARRIER_TRIES = 400
REFUSED = "Permission denied"
"""What ssh(1) says when nothing that it tried let it in."""
MOST_REFUSALS = 10
LONGEST_COMMAND = 3000
"""Of a first command: dropbear takes 9000 octets (MAX_CMD_LEN in its sysoptions.h)."""
TELL_SECONDS = 5.0
"""How often to tell what a booting guest is at: the last line of its console."""
KNOCK_SECONDS = 2.0
"""How often to try SSH on a guest whose console never says `ready` (a user's own image)."""

Lap = Callable[[str], None]
"""Takes the name of a stage of a guest's start that has ended."""
VMSTAT = Path("/proc/vmstat")


def first_command(guest: Guest) -> str:
    """Return what a guest runs to prove that it is ready.

    Emulated NICs of real hardware negotiate for two seconds before they have a carrier; virtio has
    it at once.
    """
    slow = [nic.name for nic in guest.nics if not registry.nic(nic.model).instant_carrier]
    lines = [guest.settling, guest.question]
    if slow:
        lines.insert(1, _wait_for_carriers(slow))
    return "\n".join(filter(None, lines))


def _wait_for_carriers(slow: Sequence[str]) -> str:
    return (
        f"for i in {' '.join(slow)}; do n=0; "
        'until [ "$(cat /sys/class/net/$i/carrier 2>/dev/null)" = 1 ]; do n=$((n + 1)); '
        f'[ $n -lt {CARRIER_TRIES} ] || {{ echo "{NO_CARRIER} $i" >&2; exit 1; }}; '
        "sleep 0.1; done; done"
    )


def first_words(guest: Guest) -> tuple[str, bytes]:
    """Return the first command of a guest, and its standard input.

    A clone is told by it of its peers: on its console each octet is an interrupt. A few are in the
    command itself; a shell of its own for them is a process more.
    """
    line = first_command(guest)
    script = peers_script(guest.clone.peers) if guest.clone else ""
    if not script:
        return line, b""
    if len(script) <= LONGEST_COMMAND:
        return f"set -e\n{script}\n{line}", b""
    return "exec sh -e", f"{script}\n{line}\n".encode()


def wait_ready(
    alive: Callable[[], bool],
    guest: Guest,
    directory: Path,
    give_up: threading.Event,
    lap: Lap = lambda _stage: None,
    tell: Callable[[str], None] = lambda _words: None,
) -> None:
    """Wait until a command has run in the guest, or `give_up` is set.

    Where nobody logs in, wait until the steps on its console are done. `tell` is told what is
    waited for.

    The console's word says when to knock, so that no time is lost in TCP's and neighbour
    discovery's retries; a guest that never says it is knocked at all the same. `lap` is called at
    the end of each stage.
    """
    seconds = guest.patience or (CLONE_SECONDS if guest.clone else READY_SECONDS)
    deadline = Deadline(seconds, f"booting {guest.name}")
    word = guest.ready.encode()
    nothing = NOTHING_BOOTS if guest.disk else ()
    log = console.Watcher(guest.log, *filter(None, (word, TROUBLE, PANIC, *nothing)))
    ask_at = time.monotonic()
    tell_at = ask_at + TELL_SECONDS
    killed = oom_kills()
    waiting = ""

    def say(words: str) -> None:
        nonlocal waiting
        waiting = words
        tell(words)

    def check() -> None:
        nonlocal ask_at, tell_at
        if give_up.is_set():
            raise GuestError(f"{guest.name} was given up: another guest failed")
        log.look()
        if time.monotonic() >= tell_at:
            tell_at = time.monotonic() + TELL_SECONDS
            tell("; it says: ".join(filter(None, (waiting, console.last_line(guest.log)))))
        _check_troubles(guest, log)
        if any(words in log.said for words in nothing):
            raise GuestError(
                f"{guest.name} found nothing to boot on its disk",
                "are the format and the firmware (bios, uefi) of its image what it says?",
                console.tail(guest.log),
            )
        # After a panic it starts again: it would go on for ever. But its line is to be whole.
        ended = bool(log.line(PANIC))
        if not ended and time.monotonic() >= ask_at:
            ended, ask_at = not alive(), time.monotonic() + ALIVE_SECONDS
        if ended:
            raise _killed(guest) if not panic(guest) and oom_kills() > killed else _died(guest)

    console_steps.run(guest.name, guest.steps, guest.console, guest.log, check, say)
    if guest.steps:
        lap("console")
    if guest.console_only:
        check()
        return
    waiting = ""
    with console.Growth(guest.log) as growth:
        _until_answered(guest, directory, log, growth, deadline, check, lap)
    log.look()
    _check_troubles(guest, log)


def _until_answered(
    guest: Guest,
    directory: Path,
    log: console.Watcher,
    growth: console.Growth,
    deadline: Deadline,
    check: Callable[[], None],
    lap: Lap,
) -> None:
    """Try a guest's first command when it says that it is ready, or has been silent for long."""
    word = guest.ready.encode()
    knock_at = time.monotonic() + (15 * KNOCK_SECONDS if word else 0)
    refused = 0
    while True:
        log.look()
        said = word in log.said
        if said or time.monotonic() > knock_at:
            lap("ready")
            line, script = first_words(guest)
            words = [*ssh.command(directory, guest.name), line]
            limit = Deadline(min(60.0, deadline.left or 1.0), f"first command in {guest.name}")
            answer = _knock(words, script, limit, check)
            if answer and answer.ok:
                lap("answered")
                tools.keep(directory, guest.name, answer.stdout)
                break
            if answer and NO_CARRIER in answer.stderr:
                raise GuestError(
                    f"{guest.name} sees no carrier on {answer.stderr.split()[-1]}",
                    "use another NIC model, or read its console: labctl logs " + guest.name,
                    console.tail(guest.log),
                )
            if guest.user and answer and REFUSED in answer.stderr:
                refused += 1  # while it boots it may refuse everybody (pam_nologin(8))
                if refused > MOST_REFUSALS:
                    raise GuestError(
                        f"{guest.name} refuses the login of {guest.user}: "
                        f"{last_lines(answer.stderr, 1)}",
                        "are the user and the password, or the key, the right ones?",
                        console.tail(guest.log),
                    )
            if answer and (told := TROUBLE_TOLD.search(answer.stderr)):
                raise _untaken(guest, told[1])
            knock_at = time.monotonic() + KNOCK_SECONDS
        check()
        if deadline.passed:
            raise deadline.error(
                "its console's last lines are below",
                "is the machine overloaded, or the kernel without drivers for these interfaces?",
                console.tail(guest.log),
            )
        if said:
            time.sleep(KNOCK_SECONDS / 4)
        else:
            growth.wait(min(GROW_SECONDS, deadline.left))


def _knock(
    words: Sequence[str], script: bytes, limit: Deadline, check: Callable[[], None]
) -> Result | None:
    """Run a guest's first command; None when there was no answer."""
    try:
        return run(
            words,
            deadline=limit,
            stdin=script,
            check=False,
            package="openssh-client",
            watch=check,
        )
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
    if guest.disk:
        return GuestError(
            f"{guest.name} ended while booting{why}; its console's last lines are below",
            "is its image for this machine, and its firmware (bios, uefi) the right one?",
            console.tail(guest.log),
        )
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
        raise _untaken(guest, text)


def _untaken(guest: Guest, text: str) -> GuestError:
    return GuestError(
        f"{guest.name} could not take its configuration: {clean(text)[:_LONGEST_LINE]}",
        "change that line of the topology, or use an image that can do it",
        console.tail(guest.log),
    )
