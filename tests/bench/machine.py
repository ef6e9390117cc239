"""What the figures were measured on, and what a process of a sandbox occupies."""

from __future__ import annotations

import os
import platform
import re
import resource
from datetime import UTC, datetime
from pathlib import Path

from labctl.sandbox.deadline import Deadline
from labctl.sandbox.namespaces import Namespaces
from labctl.sandbox.process import run


def facts(accel: str) -> dict[str, str]:
    """Describe the machine in a few lines."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    version = run(["qemu-system-x86_64", "--version"], deadline=Deadline(20, "asking QEMU"))
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": f"{os.cpu_count()} x {model[1] if model else platform.machine()}",
        "kernel": platform.release(),
        "qemu": version.stdout.splitlines()[0],
        "python": platform.python_version(),
        "accel": accel,
        "load": f"{os.getloadavg()[0]:.2f} when the run began",
    }


def memory(sandbox: Namespaces, pid: int) -> float:
    """Return the PSS in MiB of a process, by its pid inside the sandbox (proc(5), smaps_rollup)."""
    rollup = Path(f"/proc/{sandbox.identity.pid}/root/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.M)
    if not found:
        raise RuntimeError(f"process {pid} has no PSS")
    return int(found[1]) / 1024


def cpu(sandbox: Namespaces, pid: int) -> float:
    """Return the CPU seconds a process has used, by its pid in the sandbox (proc_pid_stat(5))."""
    stat = Path(f"/proc/{sandbox.identity.pid}/root/proc/{pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_cpu() -> float:
    """Return the CPU seconds of all ended children of this process."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
