"""What must be as before: the host's own settings, and those inside a lab that stays up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from runner.inside import kernel, network
from runner.inside.compare import compare
from runner.inside.machine import Machine, SkippedError, Snapshot, Things

HOST = {
    "link": network.links,
    "address": network.addresses,
    "route": network.routes,
    "routing rule": network.rules,
    "queue": network.queues,
    "firewall": network.firewall,
    "mount": kernel.mounts,
    "sysctl": kernel.sysctls,
    "kernel setting": kernel.settings,
    "BPF file": kernel.bpf_files,
}
INSIDE = {
    "link": network.links,
    "offload": network.offloads,
    "address": network.addresses,
    "route": network.routes,
    "queue": network.queues,
}
TESTS = Path(__file__).parents[1]
SECONDS = 120.0


def host() -> Snapshot:
    """Return the settings of this host."""
    return _take(HOST)


def inside(init: int, netns: str = "") -> Snapshot:
    """Return the settings of the network of the lab that has this PID 1, or of a router in it."""
    enter = ["nsenter", "--target", str(init), "--mount", "--pid", "--net", "--"]
    if netns:
        enter += ["nsenter", f"--net=/run/netns/{netns}", "--"]
    done = subprocess.run(
        [*enter, sys.executable, "-P", "-m", "faults.settings"],
        env={"PYTHONPATH": str(TESTS), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        cwd="/",
        capture_output=True,
        timeout=SECONDS,
        check=True,
    )
    taken: Snapshot = json.loads(done.stdout)
    return taken


def differing(before: Snapshot, after: Snapshot) -> list[str]:
    """Say what is not as before."""
    return [str(difference) for difference in compare(before, after) if difference.fails]


def _take(kinds: Mapping[str, Callable[[Machine], Things]]) -> Snapshot:
    taken = Snapshot(ignore=[], skipped={}, kinds={})
    for kind, look in kinds.items():
        try:
            taken["kinds"][kind] = look(Machine())
        except SkippedError as why:
            taken["skipped"][kind] = str(why)
    return taken


if __name__ == "__main__":
    print(json.dumps(_take(INSIDE)))
