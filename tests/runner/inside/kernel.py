"""Mounts, settings, modules, tracing, BPF, memory, disks and messages of the kernel."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass

from .machine import Machine, Things, numbered

TRACING = (
    "current_tracer",
    "tracing_on",
    "set_event",
    "set_event_pid",
    "set_ftrace_filter",
    "set_ftrace_notrace",
    "set_ftrace_pid",
    "kprobe_events",
    "uprobe_events",
    "dynamic_events",
    "trace_options",
    "trace_clock",
    "tracing_cpumask",
    "buffer_size_kb",
)
MEMORY = ("ksm/run", "transparent_hugepage/enabled", "transparent_hugepage/defrag")
DEPRECATED = re.compile(r"/net/ipv[46]/neigh/[^/]+/(base_reachable_time|retrans_time)")
"""Settings that the kernel logs the reading of; their twins in ms say the same."""
OWN_PROGRAMS = re.compile(r"pid_iter|libbpf_.*|det_arg_ctx|dump_bpf_.*")
"""BPF programs that bpftool itself loads while it looks."""


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo."""

    point: str
    device: str
    root: str
    options: str
    passing_on: str
    type: str
    source: str
    more: str


def _plain(path: str) -> str:
    """Return a path whose spaces and the like mountinfo has as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def mount_table(machine: Machine) -> list[Mount]:
    """Return what is mounted for PID 1, in the order of mounting."""
    table = []
    for line in (machine.text("proc/1/mountinfo") or "").splitlines():
        fore, _, after = line.partition(" - ")
        head, tail = fore.split(), after.split(" ")
        if len(head) >= 6 and len(tail) >= 3:
            point, root = _plain(head[4]), _plain(head[3])
            passing = " ".join(head[6:])
            table.append(Mount(point, head[2], root, head[5], passing, tail[0], tail[1], tail[2]))
    return table


def mounts(machine: Machine) -> Things:
    """Return the mounts; one over another has a number in its name."""
    things: Things = {}
    for mount in mount_table(machine):
        value = vars(mount).copy()
        numbered(things, value.pop("point"), value)
    return things


def sysctls(machine: Machine) -> Things:
    """Return all readable settings in /proc/sys; those of one link together."""
    things: Things = {}
    top = machine.path("proc/sys")
    # A look at what waits to be mounted would mount it.
    waiting = {mount.point for mount in mount_table(machine) if mount.type == "autofs"}
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(top + folder) as scan:
                entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan]
        except OSError:
            continue
        values: Things = {}
        for name, is_folder in entries:
            path = f"{folder}/{name}"
            if not is_folder:
                if DEPRECATED.fullmatch(path):
                    continue
                text = machine.text(f"proc/sys{path}")
                if text is not None:
                    values[name] = " ".join(text.split())
            elif f"/proc/sys{path}" not in waiting and path != "/fs/binfmt_misc":
                folders.append(path)
        # A link has about a hundred settings: one line says that it came.
        if re.fullmatch(r"/net/ipv[46]/(conf|neigh)/[^/]+|/net/mpls/conf/[^/]+", folder):
            things[folder[1:]] = values
        else:
            things.update((f"{folder}/{name}"[1:], value) for name, value in values.items())
    return things


def modules(machine: Machine) -> Things:
    """Return the modules that are loaded."""
    return {line.split()[0]: {} for line in (machine.text("proc/modules") or "").splitlines()}


def settings(machine: Machine) -> Things:
    """Return settings below /sys/kernel: tracing, huge pages, what AppArmor confines."""
    things: Things = {}
    for name in TRACING:
        text = machine.text(f"sys/kernel/tracing/{name}")
        if text is not None:
            value = text.strip()
            if name == "buffer_size_kb":
                # The first use lets the buffer grow to the size said beforehand, to whole pages.
                value = re.sub(r"^\d+ \(expanded: (\d+)\)$", r"\1", value)
                value = re.sub(r"^\d+$", lambda found: str(int(found[0]) // 16 * 16), value)
            things[f"tracing/{name}"] = value
    for name in machine.names("sys/kernel/tracing/instances"):
        things[f"tracing/instances/{name}"] = {}
    for name in MEMORY:
        text = machine.text(f"sys/kernel/mm/{name}")
        if text is not None:
            things[f"mm/{name}"] = text.strip()
    for size in machine.names("sys/kernel/mm/hugepages"):
        for name in machine.names(f"sys/kernel/mm/hugepages/{size}"):
            text = machine.text(f"sys/kernel/mm/hugepages/{size}/{name}")
            things[f"mm/hugepages/{size}/{name}"] = (text or "").strip()
    for line in (machine.text("sys/kernel/security/apparmor/profiles") or "").splitlines():
        things[f"apparmor {line.rpartition(' (')[0]}"] = line.rpartition(" (")[2].rstrip(")")
    return things


def bpf_files(machine: Machine) -> Things:
    """Return what is pinned in /sys/fs/bpf."""
    top = machine.path("sys/fs/bpf")
    found: Things = {}
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            found[f"{folder}/{name}"[len(top) :]] = {}
    return found


def bpf_programs(machine: Machine) -> Things:
    """Return how many BPF programs and maps there are of each name and tag."""
    counts: dict[str, int] = {}
    for kind in ("prog", "map"):
        told = json.loads(machine.run(("bpftool", "-j", kind, "show")) or "[]")
        for item in told:
            words = [str(item.get(field) or "-") for field in ("type", "name", "tag")]
            if OWN_PROGRAMS.fullmatch(words[1].partition(".")[0]):
                continue
            name = f"{kind} {words[0]} {words[1]}" + (f" {words[2]}" if kind == "prog" else "")
            counts[name] = counts.get(name, 0) + 1
    return dict(counts)


def disks(machine: Machine) -> Things:
    """Return the block devices with their size, and the file behind a loop device."""
    things: Things = {}
    for name in machine.names("sys/block"):
        value = {"size": (machine.text(f"sys/block/{name}/size") or "").strip()}
        behind = machine.text(f"sys/block/{name}/loop/backing_file")
        things[name] = {**value, "file": behind.strip()} if behind else dict(value)
    return things


def messages(machine: Machine) -> Things:
    """Return what the kernel's log holds, by each message's number."""
    things: Things = {}
    try:
        log = os.open(machine.path("dev/kmsg"), os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return things
    try:
        while True:
            try:
                record = os.read(log, 16384)
            except BrokenPipeError:
                continue  # What was to be read next has been overwritten: go on with the oldest.
            except BlockingIOError:
                break
            if not record:
                break
            for line in record.decode(errors="backslashreplace").splitlines():
                # Lines that begin with a space say of which device the message is.
                fields, _, text = line.partition(";")
                numbers = fields.split(",")
                if not line.startswith(" ") and len(numbers) >= 3:
                    level = int(numbers[0])
                    things[numbers[1]] = {"from": level >> 3, "level": level & 7, "text": text}
    finally:
        os.close(log)
    return things
