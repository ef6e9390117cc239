"""Processes and what systemd, users and IPC hold."""

from __future__ import annotations

import os
import re

from .machine import Machine, SkippedError, Things

KERNEL_THREAD = 0x00200000
"""PF_KTHREAD in a process's flags."""


def _status(machine: Machine, pid: str) -> tuple[str, list[str]] | None:
    """Return name and the fields that follow it, of a process's stat."""
    text = machine.text(f"proc/{pid}/stat")
    if not text:
        return None
    # The name may hold spaces and parentheses: the last one ends it.
    head, _, tail = text.rpartition(")")
    return head.partition("(")[2], tail.split()


def _group(machine: Machine, pid: str) -> str:
    for line in (machine.text(f"proc/{pid}/cgroup") or "").splitlines():
        if line.startswith("0::"):
            return line[3:]
    return ""


def askers(machine: Machine, pid: int) -> set[str]:
    """Return the process that asks and those above it, up to PID 1."""
    found: set[str] = set()
    number = str(pid)
    while number not in found and number not in ("0", "1"):
        found.add(number)
        status = _status(machine, number)
        if status is None:
            break
        number = status[1][1]
    return found


def processes(machine: Machine) -> tuple[Things, Things]:
    """Return the processes and the kernel's threads, by `pid@start`."""
    ordinary: Things = {}
    kernel: Things = {}
    asking = askers(machine, os.getpid())
    for pid in machine.pids():
        status = _status(machine, pid)
        if status is None:
            continue
        name, fields = status
        key = f"{pid}@{fields[19]}"
        if int(fields[6]) & KERNEL_THREAD:
            # A worker's name goes on with what it did last.
            kernel[key] = {"command": re.sub(r"^(kworker/[^-+]*)[-+].*", r"\1", name)}
            continue
        line = (machine.text(f"proc/{pid}/cmdline") or "").replace("\0", " ").strip()
        # sshd says in its command line how many are logging in.
        line = re.sub(r"(\[listener\]) \d+ of", r"\1 N of", line)
        try:
            user = os.stat(machine.path(f"proc/{pid}")).st_uid  # noqa: PTH116
        except OSError:
            continue
        ordinary[key] = {
            "command": line or f"[{name}]",
            "uid": user,
            "cgroup": _group(machine, pid),
            "asks": pid in asking,
        }
        if fields[0] == "Z":
            ordinary[key] = {"command": f"[{name}] (zombie)", "uid": user, "asks": pid in asking}
    return ordinary, kernel


def namespaces(machine: Machine) -> Things:
    """Return every namespace in use, with the processes (`pid@start`) in it; the named ones too."""
    found: dict[str, list[str]] = {}
    for pid in machine.pids():
        status = _status(machine, pid)
        if status is None:
            continue
        for name in machine.names(f"proc/{pid}/ns"):
            try:
                space = os.readlink(machine.path(f"proc/{pid}/ns/{name}"))  # noqa: PTH115
            except OSError:
                continue
            holders = found.setdefault(space, [])
            key = f"{pid}@{status[1][19]}"
            # Where many are, a few tell enough: the list only serves one that comes or goes.
            if len(holders) < 50 and key not in holders:
                holders.append(key)
    things: Things = {space: {"by": holders} for space, holders in found.items()}
    for name in machine.names("run/netns"):
        things[f"/run/netns/{name}"] = {"by": []}
    return things


def groups(machine: Machine) -> Things:
    """Return every cgroup's path."""
    top = machine.path("sys/fs/cgroup")
    found: Things = {}
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        folders += below
        found.update((path[len(top) :], {}) for path in below)
    return found


def accounts(machine: Machine, file: str) -> Things:
    """Return the users or the groups of a file such as etc/passwd."""
    lines = (machine.text(file) or "").splitlines()
    return {line.partition(":")[0]: line.partition(":")[2] for line in lines if line}


def ipc(machine: Machine) -> Things:
    """Return the shared memory, semaphores and queues of System V."""
    things: Things = {}
    for kind in machine.names("proc/sysvipc"):
        lines = (machine.text(f"proc/sysvipc/{kind}") or "").splitlines()
        for line in lines[1:]:
            row = dict(zip(lines[0].split(), line.split(), strict=False))
            kept = ("key", "perms", "size", "nsems", "uid", "gid")
            number = row.get(f"{kind}id", "?")
            things[f"{kind} {number}"] = {name: row[name] for name in kept if name in row}
    return things


def failed_units(machine: Machine) -> Things:
    """Return the units of systemd that failed."""
    command = ("systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--full")
    try:
        told = machine.run(command)
    except SkippedError as error:
        raise SkippedError(f"units: {error}") from None
    return {line.split()[0]: "failed" for line in told.splitlines() if line.strip()}
