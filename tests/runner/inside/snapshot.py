"""Take a snapshot of a whole machine, and tell if a later one is the same.

Runs inside the machine as root, with nothing but Python, from the folder with its neighbours:

    python3 -I snapshot.py take > before.json
    python3 -I snapshot.py compare before.json after.json
    python3 -I snapshot.py until-same before.json --seconds 60
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

if not __package__:
    # Started by its path: -I leaves this folder out of the search, and a folder above it may hold
    # files named as modules of Python. So what lies here is made a package, without a search.
    sys.dont_write_bytecode = True
    __package__ = "runner"
    sys.modules[__package__] = ModuleType(__package__)
    sys.modules[__package__].__path__ = [str(Path(__file__).resolve().parent)]

from . import files, kernel, network, system
from .compare import Difference, compare, report
from .machine import Machine, SkippedError, Snapshot, Things

__all__ = ["Difference", "Machine", "Snapshot", "compare", "report", "take", "until_same"]

COULD_NOT_TELL = 2
"""The exit status where no comparison was made."""
PAUSE = 2.0
"""Seconds between two looks at what is ending."""

KINDS: dict[str, Callable[[Machine], Things]] = {
    # First what the programs that are asked below might change.
    "module": kernel.modules,
    "message": kernel.messages,
    "namespace": system.namespaces,
    "mount": kernel.mounts,
    "link": network.links,
    "offload": network.offloads,
    "address": network.addresses,
    "route": network.routes,
    "routing rule": network.rules,
    "neighbour": network.neighbours,
    "queue": network.queues,
    "firewall": network.firewall,
    "sysctl": kernel.sysctls,
    "kernel setting": kernel.settings,
    "BPF file": kernel.bpf_files,
    "BPF program": kernel.bpf_programs,
    "disk": kernel.disks,
    "user": lambda machine: system.accounts(machine, "etc/passwd"),
    "group": lambda machine: system.accounts(machine, "etc/group"),
    "cgroup": system.groups,
    "failed unit": system.failed_units,
    "IPC": system.ipc,
}


def take(ignore: Sequence[str] = (), machine: Machine | None = None) -> Snapshot:
    """Return a snapshot of this machine, without the files that a glob of `ignore` matches."""
    machine = machine or Machine()
    taken = Snapshot(ignore=list(ignore), skipped={}, kinds={})
    taken["kinds"]["process"], taken["kinds"]["kernel thread"] = system.processes(machine)
    for kind, look in KINDS.items():
        try:
            taken["kinds"][kind] = look(machine)
        except SkippedError as error:
            taken["skipped"][kind] = str(error)
    taken["kinds"]["file"] = files.files(machine, ignore)
    return taken


def until_same(
    before: Snapshot, seconds: float, taker: Callable[[Sequence[str]], Snapshot] = take
) -> list[Difference]:
    """Take anew until all is as before or the time is over; return the last comparison.

    For what ends by itself a little later: processes that are exiting, namespaces that a worker
    of the kernel removes.
    """
    end = time.monotonic() + seconds
    while True:
        found = compare(before, taker(before["ignore"]))
        if not any(difference.fails for difference in found) or time.monotonic() >= end:
            return found
        time.sleep(min(PAUSE, max(0.0, end - time.monotonic())))


def _own_view() -> None:
    """Refuse to look from another namespace than that of PID 1: it would see another machine."""
    for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"):
        try:
            same = Path(f"/proc/self/ns/{name}").readlink() == Path(f"/proc/1/ns/{name}").readlink()
        except OSError as error:
            _refuse(f"what PID 1 sees cannot be told: {error}")
        if not same:
            _refuse(f"this process has another {name} namespace than PID 1")


def _refuse(why: str) -> NoReturn:
    """End with another exit status than that of a difference."""
    print(f"snapshot: {why}", file=sys.stderr)
    sys.exit(COULD_NOT_TELL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Take a snapshot or compare two; return 1 where the machine is not as before.

    What could not be told ends with 2, as wrong words do.
    """
    parser = argparse.ArgumentParser(description="See if a machine is as it was before.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    taking = verbs.add_parser("take", help="print a snapshot of this machine as JSON")
    taking.add_argument("--ignore", nargs="*", action="extend", default=[], metavar="GLOB")
    taking.add_argument("--may-lack", nargs="*", action="extend", metavar="KIND",
                        help="fail where any other kind could not be taken")  # fmt: skip
    comparing = verbs.add_parser("compare", help="say what differs between two snapshots")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    waiting = verbs.add_parser("until-same", help="compare this machine with a snapshot of it")
    waiting.add_argument("before", type=Path)
    waiting.add_argument(
        "--seconds", type=float, default=0.0, help="for what ends by itself a little later"
    )
    for verb in (comparing, waiting):
        verb.add_argument("--json", action="store_true", help="print each difference as JSON")
    options = parser.parse_args(arguments)
    if options.verb != "compare":
        if os.geteuid() != 0:
            _refuse("only root sees the whole machine")
        _own_view()
    if options.verb == "take":
        taken = take(options.ignore)
        if options.may_lack is not None:
            for kind in taken["skipped"].keys() - set(options.may_lack):
                _refuse(f"{kind} cannot be seen: {taken['skipped'][kind]}")
        json.dump(taken, sys.stdout, separators=(",", ":"))
        print()
        return 0
    before = json.loads(options.before.read_bytes())
    if options.verb == "compare":
        found = compare(before, json.loads(options.after.read_bytes()))
    else:
        found = until_same(before, options.seconds)
    if options.json:
        print(json.dumps([dataclasses.asdict(difference) for difference in found], indent=1))
    else:
        print(report(found))
    return int(any(difference.fails for difference in found))


if __name__ == "__main__":
    try:
        code = main()
    except Exception:
        # Python's own status would be that of a machine that is not as before.
        traceback.print_exc()
        code = COULD_NOT_TELL
    sys.exit(code)
