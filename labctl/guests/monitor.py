"""What libvirt has no call for, asked of a guest's QEMU itself (qemu-qmp-ref(7)).

Only while a template is saved or a clone is loaded: before the guest runs, or when it is stopped
and about to go. What libvirt knows of the guest stays right (it has the events).
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from labctl.errors import GuestError
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.lazy_import import Late
from labctl.sandbox.process import last_lines

if TYPE_CHECKING:
    import libvirt
    import libvirt_qemu
else:
    libvirt, libvirt_qemu = Late("libvirt"), Late("libvirt_qemu")

FILE = "saved"
MOVE_SECONDS = 60.0
LOOK_SECONDS = 0.002


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


def _prepare(domain: Any, file: int) -> None:
    # The guest's memory is in a file that both ends know, and stays there.
    capability = {"capability": "x-ignore-shared", "state": True}
    ask(domain, "migrate-set-capabilities", capabilities=[capability])
    ask(domain, "getfd", file, fdname=FILE)


def save(domain: Any, file: int) -> None:
    """Write the state of a stopped guest's devices to an open file; raises as `ask` does."""
    _prepare(domain, file)
    ask(domain, "migrate", uri=f"fd:{FILE}")
    deadline = Deadline(MOVE_SECONDS, "saving a guest's state")
    while (found := ask(domain, "query-migrate"))["status"] != "completed":
        if found["status"] in ("failed", "cancelled"):
            raise GuestError(f"its state was not saved: {found.get('error-desc', 'no reason')}")
        deadline.pause(LOOK_SECONDS)


def load(domain: Any, file: int) -> None:
    """Give a guest that has not begun the state in an open file; raises as `ask` does."""
    own = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)  # with a position of its own
    try:
        _prepare(domain, own)
    finally:
        os.close(own)
    # A guest that had moved here would tell the network so, by five broadcasts, and have its own
    # system do so too. A clone comes from nowhere, and a network under test hears nothing of it.
    ask(domain, "migrate-set-parameters", **{"announce-rounds": 0})
    ask(domain, "migrate-incoming", uri=f"fd:{FILE}")
    deadline = Deadline(MOVE_SECONDS, "loading a guest's state")
    # QEMU loads it between two answers, so this asks seldom more than once.
    while ask(domain, "query-status")["status"] == "inmigrate":
        deadline.pause(LOOK_SECONDS)
