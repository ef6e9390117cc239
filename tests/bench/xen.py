"""A Xen host and its two guests from nothing, beside one ordinary guest, alternating."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median

from labctl import topology
from labctl.guests import accel

from . import labs, machine

GOAL = 6.0
"""So many times one guest's `up` that of a Xen host and both its guests may take."""
SHIPPED = "xen-bridged"


def write(folder: Path, name: str) -> Path:
    """Write the shipped topology under a name that no other lab has."""
    text = topology.find(SHIPPED).read_text()
    path = folder / f"{name}.yaml"
    path.write_text(text.replace(f"name: {SHIPPED}", f"name: {name}"))
    return path


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench xen", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each (3)")
    parser.add_argument("--accel", choices=["auto", "require", "off"], default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options = parser.parse_args(arguments)

    from labctl import images
    from labctl.images.kernel import unpacked
    from labctl.sandbox import paths

    micro, host = images.get("micro"), images.get("xen-host")
    for image in (micro, host):
        unpacked(image.kernel)  # before any clock runs; it stays in the cache
    chosen = accel.choose(
        options.accel,
        micro.kernel,
        micro.initramfs,
        micro.memory,
        images.CMDLINE,
        paths.cache() / "libvirt",
    )
    policy = "off" if chosen == "tcg" else "require"
    about = machine.facts(chosen)
    for name, value in about.items():
        print(f"{name}: {value}")
    with tempfile.TemporaryDirectory(prefix="labctl-bench-") as folder:
        one = labs.network_of(1, f"bench-{os.getpid()}-one")
        files = {"one guest": labs.write(one, Path(folder))}
        files["Xen host and two"] = write(Path(folder), f"bench-{os.getpid()}-xen")
        figures: dict[str, list[labs.Ours]] = {name: [] for name in files}
        for number in range(options.rounds):
            for name in sorted(files, reverse=number % 2 == 1):
                model = topology.load(files[name])
                figures[name].append(labs.measure(model, files[name], policy))
                up = figures[name][-1].up
                print(f"  round {number + 1}, {name}: up {up:.2f} s", file=sys.stderr, flush=True)
    lines = ["| | up, s | the best | CPU, s | down, s | PSS, MiB |", "|---" * 6 + "|"]
    for name, each in figures.items():
        lines.append(
            f"| {name} | {median(f.up for f in each):.2f} | {min(f.up for f in each):.2f} "
            f"| {median(f.cpu for f in each):.2f} | {median(f.down for f in each):.2f} "
            f"| {median(sum(f.memory) for f in each):.0f} |"
        )
    print("\n" + "\n".join(lines))
    single, both = figures.values()
    ratio = median(f.up for f in both) / median(f.up for f in single)
    best = min(f.up for f in both) / min(f.up for f in single)
    cpu = median(f.cpu for f in both) / median(f.cpu for f in single)
    told = "missed" if ratio > GOAL else "reached"
    print(f"\nratio {ratio:.2f}, of the best {best:.2f}, of CPU {cpu:.2f}; at most {GOAL}: {told}")
    if options.json:
        rounds = {name: [asdict(figure) for figure in each] for name, each in figures.items()}
        options.json.write_text(json.dumps({"machine": about, "rounds": rounds}, indent=2) + "\n")
