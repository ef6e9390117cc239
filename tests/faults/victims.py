"""Which of the processes that a verb has brought about is whose."""

from __future__ import annotations

from live import words_of

ROLES = (
    ("qemu", ("qemu-system",)),
    ("observer", ("kinds/observers/observe.py",)),
    ("router", ("labctl.routers.raw",)),
    ("unshare", ("unshare --",)),
    ("init", ("sandbox/init.py",)),
    ("other", ("nsenter ",)),
    ("agent", ("labctl.sandbox.agent",)),
    ("agent", ("/labctl ",)),
)
"""By words of the command line, the first that fits. The agent of a new lab is forked from labctl
and has its command line; `other` is all else: ssh, nsenter, libvirt's helpers, probes."""


def role(pid: int, labctl: int) -> str:
    """Return whose process this is; `labctl` is the pid of the command itself."""
    if pid == labctl:
        return "labctl"
    words = words_of(pid)
    for name, wanted in ROLES:
        if all(word in words for word in wanted):
            return name
    return "other"


def find(wanted: str, processes: set[int], labctl: int) -> list[int]:
    """Return the processes of a role, the oldest first."""
    return [pid for pid in sorted(processes) if role(pid, labctl) == wanted]
