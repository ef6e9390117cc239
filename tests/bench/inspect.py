"""`labctl inspect` beside tshark's checksum validation and scapy's, on one file, in one run.

Every program is timed from its start to its end. tshark runs twice: as one would call it, and with
everything switched off that checksums do not need. scapy, which would take hours, judges the first
frames of the file and its time is scaled up. tshark's answers are compared packet by packet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from labctl.inspect.kinds import STATE_OF, Kind
from labctl.inspect.run import walk

from . import inspect_file

GOALS = {"tshark": 20, "scapy": 100}
PROTOCOLS = ("tcp", "udp", "icmp", "icmpv6", "sctp")
CHECKS = tuple(
    f"-o{name}.{option}"
    for name, option in (
        ("ip", "check_checksum:TRUE"),
        ("tcp", "check_checksum:TRUE"),
        ("udp", "check_checksum:TRUE"),
        ("sctp", "checksum:CRC-32c"),
    )
)
NEEDED = {
    "frame", "eth", "ethertype", "ip", "ipv6", "tcp", "udp", "icmp", "icmpv6", "sctp", "vlan",
    "arp", "data", "vxlan",
}  # fmt: skip
WORDS = {"0": "bad", "1": "good", "2": "unverified", "3": "not present", "4": "illegal", "": "-"}
"""What tshark's numbers mean (epan/proto.h, proto_checksum_enum_e)."""


@dataclass(frozen=True)
class Timing:
    """What one program took, in seconds."""

    wall: float
    cpu: float


def timed(words: Sequence[str], output: Path | None = None) -> Timing:
    """Run a program to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    with (output or Path(os.devnull)).open("wb") as file:
        subprocess.run(words, stdout=file, stderr=subprocess.DEVNULL, check=True)
    wall = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Timing(wall, cpu)


def ours(path: Path) -> list[str]:
    return [str(Path(sys.executable).with_name("labctl")), "inspect", "--json", str(path)]


def tshark(path: Path, *more: str) -> list[str]:
    fields = [word for name in PROTOCOLS for word in ("-e", f"{name}.checksum.status")]
    every = ["-T", "fields", "-E", "occurrence=f", "-E", "separator=,", *fields]
    return ["tshark", "-n", "-r", str(path), *CHECKS, *more, *every]


def lean() -> list[str]:
    """Options that switch off what checksums do not need."""
    listed = subprocess.run(
        ["tshark", "-G", "protocols"], capture_output=True, text=True, check=True
    )
    names = {line.split("\t")[2] for line in listed.stdout.splitlines() if "\t" in line}
    off = [word for name in sorted(names - NEEDED) for word in ("--disable-protocol", name)]
    return [*off, "-otcp.analyze_sequence_numbers:FALSE", "-otcp.desegment_tcp_streams:FALSE",
            "-oip.defragment:FALSE"]  # fmt: skip


def scapy(path: Path, count: int) -> Timing:
    """Have scapy compute the sums of the first frames, as its users do."""
    # As a module: run as a file, this folder's inspect.py would hide Python's own.
    words = [sys.executable, "-m", f"{__package__}.inspect_scapy", str(path)]
    spent, nothing = timed([*words, str(count)]), timed([*words, "0"])  # its start is not scaled
    return Timing(spent.wall - nothing.wall, spent.cpu - nothing.cpu)


def answers(path: Path) -> Iterator[Kind]:
    for _, judged in walk(path):
        yield from map(Kind, judged.kinds.tolist())


def compare(path: Path, theirs: Path) -> Counter[tuple[str, str]]:
    """Count what the two say of the same packet, ours first."""
    pairs: Counter[tuple[str, str]] = Counter()
    with theirs.open() as lines:
        for kind, line in zip(answers(path), lines, strict=True):
            told = "".join(line.strip().split(","))
            state = str(STATE_OF[kind])
            if state == "unknown":
                state += f" ({kind.name.lower().replace('_', ' ')})"
            pairs[state, WORDS.get(told, told)] += 1
    return pairs


EQUAL = {
    ("valid", "good"), ("bad", "bad"), ("absent", "not present"), ("unknown (cut)", "unverified"),
    ("unknown (no checksum)", "-"), ("unknown (fragment)", "-"),
}  # fmt: skip
EXPLAINED = {
    ("partial", "bad"): "tshark has one word for wrong sums and those left open",
    ("partial", "unverified"): "tshark takes a pseudo-header's sum for left open, as we do",
    ("partial", "good"): "so does tshark 4.4, but its number has no word for it",
    ("unknown (fragment)", "unverified"): "neither can tell the sum of a part",
    ("unknown (fragment)", "not present"): "UDP's field is 0 in the first fragment already",
    ("unknown (fragment)", "bad"): "tshark takes the CRC of an SCTP fragment for the packet's",
}


def facts() -> dict[str, str]:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    version = subprocess.run(["tshark", "--version"], capture_output=True, text=True, check=True)
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": f"{os.cpu_count()} x {model[1] if model else platform.machine()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "tshark": version.stdout.split()[2],
        "load": f"{os.getloadavg()[0]:.2f} when the run began",
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench inspect", description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="of labctl and of the lean tshark")
    parser.add_argument("--scapy", type=int, default=10_000, help="frames that scapy judges")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    if not shutil.which("tshark"):
        print("bench inspect: left out, there is no tshark (apt-get install tshark)")
        return
    with tempfile.TemporaryDirectory(prefix="labctl-bench-") as folder:
        told = run(Path(folder), chosen.frames, chosen.rounds, chosen.scapy)
    if chosen.json:
        chosen.json.write_text(json.dumps(told, indent=2) + "\n")


def run(folder: Path, frames: int, rounds: int, scaled: int) -> dict[str, object]:
    path, theirs = folder / "frames.pcap", folder / "tshark.txt"
    about = facts()
    for key, value in about.items():
        print(f"{key:7} {value}")
    size = inspect_file.write(path, frames)
    print(f"file    {frames:,} frames, {size / 2**20:.0f} MiB, in the page cache", flush=True)
    options = lean()
    spent: dict[str, list[Timing]] = {"labctl": [], "tshark, lean": [], "tshark": [], "scapy": []}
    for _ in range(rounds):
        spent["labctl"].append(timed(ours(path)))
        spent["tshark, lean"].append(timed(tshark(path, *options), theirs))
    spent["tshark"].append(timed(tshark(path)))
    spent["labctl"].append(timed(ours(path)))
    part = scapy(path, scaled)
    factor = frames / scaled
    spent["scapy"].append(Timing(part.wall * factor, part.cpu * factor))

    middle = {
        name: Timing(median(one.wall for one in all_), median(one.cpu for one in all_))
        for name, all_ in spent.items()
    }
    base = middle["labctl"]
    print(f"\n{'':14}{'wall s':>9}{'CPU s':>9}{'times ours':>12}{'of CPU':>9}")
    for name, one in middle.items():
        print(
            f"{name:14}{one.wall:9.2f}{one.cpu:9.2f}"
            f"{one.wall / base.wall:12.1f}{one.cpu / base.cpu:9.1f}"
        )
    walls = [one.wall for one in spent["labctl"]]
    print(f"labctl ran {len(walls)} times: {min(walls):.2f} to {max(walls):.2f} s")
    for name, goal in GOALS.items():
        ratio = middle[name].wall / base.wall
        print(f"goal: {goal} times {name}: {'reached' if ratio >= goal else 'NOT reached'}")

    pairs = compare(path, theirs)
    print("\nthe same packets, as labctl and as tshark says")
    for (mine, their), count in pairs.most_common():
        words = "same" if (mine, their) in EQUAL else EXPLAINED.get((mine, their), "DIFFERENT")
        print(f"{count:10,}  {mine:22} {their:12} {words}")
    return {
        "machine": about,
        "frames": frames,
        "bytes": size,
        "seconds": {name: [asdict(one) for one in all_] for name, all_ in spent.items()},
        "answers": [{"labctl": a, "tshark": b, "count": n} for (a, b), n in pairs.items()],
    }


if __name__ == "__main__":
    main(sys.argv[1:])
