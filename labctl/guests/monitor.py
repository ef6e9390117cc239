"""What libvirt has no call for, asked of a guest's QEMU itself (qemu-qmp-ref(7)).

Only while a guest is saved or loaded: before it runs, or when it is stopped. What libvirt knows of
the guest stays right (it has the events).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from labctl.errors import DeadlineError, GuestError
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.lazy_import import Late
from labctl.sandbox.process import last_lines

if TYPE_CHECKING:
    import libvirt
    import libvirt_qemu
else:
    libvirt, libvirt_qemu = Late("libvirt"), Late("libvirt_qemu")

FILE = "saved"
_OVER = ("failed", "cancelled")
MOVE_SECONDS = 60.0
LOOK_SECONDS = 0.002
UNBOUNDED = 1 << 40
"""Octets a second: QEMU takes 128 MiB a second to be a network's share."""


def ask(domain: Any, command: str, file: int | None = None, **arguments: object) -> Any:
    """Run one command, with an open file on its way to QEMU; return what it answers.

    Raises `GuestError` with QEMU's own words, `libvirt.libvirtError`.
    """
    text = json.dumps({"execute": command, "arguments": arguments})
    files = [] if file is None else [file]
    answer, _ = libvirt_qemu.qemuMonitorCommandWithFiles(domain, text, files, 0)
    told = json.loads(answer)
    if "error" in told:
        raise GuestError(f"QEMU refuses {command}: {last_lines(str(told['error'].get('desc')))}")
    return told.get("return")


def _prepare(domain: Any, file: int, whole: bool) -> None:
    # Of a template the guest's memory is in a file that both ends know, and stays there.
    capability = {"capability": "x-ignore-shared", "state": not whole}
    ask(domain, "migrate-set-capabilities", capabilities=[capability])
    ask(domain, "getfd", file, fdname=FILE)


def save(
    domain: Any,
    file: int,
    *,
    whole: bool = False,
    seconds: float = MOVE_SECONDS,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write the state of a stopped guest's devices to an open file; raises as `ask` does.

    With `whole` its memory too. Raises `DeadlineError` as well, and what `check` does, which is
    called over and over; then it is given up, and the guest may go on.
    """
    _prepare(domain, file, whole)
    if whole:
        ask(domain, "migrate-set-parameters", **{"max-bandwidth": UNBOUNDED})
    ask(domain, "migrate", uri=f"fd:{FILE}")
    deadline = Deadline(seconds, "saving a guest's state")
    try:
        while (found := ask(domain, "query-migrate"))["status"] != "completed":
            if found["status"] in _OVER:
                raise GuestError(f"its state was not saved: {found.get('error-desc', 'no reason')}")
            check()
            deadline.pause(LOOK_SECONDS)
    except BaseException:
        _give_up(domain)
        raise


def _give_up(domain: Any) -> None:
    """End what is being written: at its end QEMU would stop the guest once more."""
    with contextlib.suppress(GuestError, DeadlineError, libvirt.libvirtError):
        ask(domain, "migrate_cancel")
        deadline = Deadline(MOVE_SECONDS, "giving a guest's state up")
        while ask(domain, "query-migrate").get("status") not in (*_OVER, "completed", None):
            deadline.pause(LOOK_SECONDS)


def load(domain: Any, file: int, *, whole: bool = False, seconds: float = MOVE_SECONDS) -> None:
    """Give a guest that has not begun the state in an open file; raises as `save` does."""
    own = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)  # with a position of its own
    try:
        _prepare(domain, own, whole)
    finally:
        os.close(own)
    # A guest that had moved here would tell the network so, by five broadcasts, and have its own
    # system do so too. A clone comes from nowhere, and a network under test hears nothing of it.
    ask(domain, "migrate-set-parameters", **{"announce-rounds": 0})
    ask(domain, "migrate-incoming", uri=f"fd:{FILE}")
    deadline = Deadline(seconds, "loading a guest's state")
    # QEMU loads it between two answers, so this asks seldom more than once.
    while ask(domain, "query-status")["status"] == "inmigrate":
        deadline.pause(LOOK_SECONDS)
