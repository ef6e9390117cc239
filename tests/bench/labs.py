"""`labctl up` and `down` as a user sees them, beside bare QEMU, alternating in one run."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from labctl import topology
from labctl.guests import accel
from labctl.lab import state
from labctl.sandbox import namespaces
from labctl.topology.model import Topology

from . import bare, machine

STAGES = ("start", "images", "sandbox", "network", "boot", "rest")
UP_GOAL = 1.15
DOWN_GOAL = 1.0


@dataclass(frozen=True)
class Ours:
    """One `labctl up` and `labctl down`: seconds as a user sees them, and MiB of each guest."""

    up: float
    down: float
    cpu: float
    """CPU seconds of labctl and of all QEMUs until `up` ended."""
    stages: dict[str, float]
    memory: list[float]


def network_of(guests: int, name: str) -> Topology:
    """Return the topology of so many guests on one bridge."""
    nodes = {
        f"vm{number}": {
            "interfaces": [
                {"network": "lan", "addresses": [f"10.9.0.{number}/24", f"fd09::{number}/64"]}
            ]
        }
        for number in range(1, guests + 1)
    }
    subnets = ["10.9.0.0/24", "fd09::/64"]
    return topology.from_mapping(
        {"name": name, "networks": {"lan": {"subnets": subnets}}, "nodes": nodes}
    )


def write(model: Topology, folder: Path) -> Path:
    """Write such a topology as the file a user would have."""
    text = [f"name: {model.name}", "networks:", "  lan: {subnets: [10.9.0.0/24, fd09::/64]}"]
    text.append("nodes:")
    for node in model.nodes.values():
        addresses = ", ".join(str(address) for address in node.interfaces[0].addresses)
        text.append(f"  {node.name}: {{interfaces: [{{network: lan, addresses: [{addresses}]}}]}}")
    path = folder / f"{model.name}.yaml"
    path.write_text("\n".join(text) + "\n")
    return path


def labctl(*words: str) -> tuple[float, Any]:
    """Run the console script to its end; return its seconds and the JSON it printed."""
    script = Path(sys.executable).with_name("labctl")
    begun = time.monotonic()
    done = subprocess.run([script, *words, "--json"], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - begun
    if done.returncode != 0:
        raise RuntimeError(f"labctl {' '.join(words)}: {done.stdout}{done.stderr}")
    return seconds, json.loads(done.stdout)


def measure(model: Topology, file: Path, policy: str) -> Ours:
    """Bring a lab up and down once."""
    folder = state.directory(model.name)
    try:
        before = machine.children_cpu()
        up, told = labctl("up", str(file), "--accel", policy)
        cpu = machine.children_cpu() - before
        sandbox = namespaces.Namespaces.attach(folder)
        run = folder / "embed" / "run" / "qemu"
        own = [node.name for node in model.outer_nodes()]  # guests of a Xen host are in its QEMU
        pids = [int((run / f"{name}.pid").read_text()) for name in own]
        cpu += sum(machine.cpu(sandbox, pid) for pid in pids)
        used = [machine.memory(sandbox, pid) for pid in pids]
        down, _ = labctl("down", model.name)
    finally:
        namespaces.end(folder)
    stages = {name: told["timings"].get(name, 0.0) for name in STAGES}
    # What Lab.up does not time: Python, imports and the topology before it, and the way out.
    stages["start"] = up - told["timings"]["up"]
    stages["rest"] = up - sum(stages.values())
    return Ours(up, down, cpu, stages, used)


def alternate(
    model: Topology, file: Path, policy: str, chosen: str, rounds: int
) -> tuple[list[Ours], list[bare.Bare]]:
    """Measure both sides in turns; which goes first changes every round."""
    ours: list[Ours] = []
    theirs: list[bare.Bare] = []
    for number in range(rounds):
        for side in ("labctl", "bare") if number % 2 == 0 else ("bare", "labctl"):
            if side == "labctl":
                ours.append(measure(model, file, policy))
            else:
                theirs.append(bare.measure(model, chosen))
        print(
            f"  {len(model.nodes)} guests, round {number + 1} of {rounds}: "
            f"up {ours[-1].up:.2f} s, bare {theirs[-1].up:.2f} s",
            file=sys.stderr,
            flush=True,
        )
    return ours, theirs


def row(guests: int, ours: Sequence[Ours], theirs: Sequence[bare.Bare]) -> dict[str, Any]:
    """Return the figures of one number of guests: medians, their ratio, and the noise."""
    up, base = [one.up for one in ours], [one.up for one in theirs]
    return {
        "guests": guests,
        "up": median(up),
        "bare": median(base),
        "ratio": median(up) / median(base),
        "best": min(up) / min(base),
        "noise": (max(base) - min(base)) / median(base),
        "cpu": median(one.cpu for one in ours),
        "bare_cpu": median(one.cpu for one in theirs),
        "down": median(one.down for one in ours),
        "down_worst": max(one.down for one in ours),
        "bare_down": median(one.down for one in theirs),
        "memory": median(value for one in ours for value in one.memory),
        "bare_memory": median(value for one in theirs for value in one.memory),
        "stages": {name: median(one.stages[name] for one in ours) for name in STAGES},
        "rounds": {
            "labctl": [asdict(one) for one in ours],
            "bare": [asdict(one) for one in theirs],
        },
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay the figures out as Markdown tables."""
    lines = [
        "| guests | up, s | bare QEMU, s | ratio | ratio of the best | noise of bare "
        "| CPU, s | bare CPU, s | down, s (worst) | bare down, s | PSS, MiB | bare PSS, MiB |",
        "|---" * 12 + "|",
    ]
    for one in rows:
        lines.append(
            f"| {one['guests']} | {one['up']:.2f} | {one['bare']:.2f} | {one['ratio']:.2f} "
            f"| {one['best']:.2f} | {one['noise']:.0%} | {one['cpu']:.2f} | {one['bare_cpu']:.2f} "
            f"| {one['down']:.2f} ({one['down_worst']:.2f}) | {one['bare_down']:.2f} "
            f"| {one['memory']:.0f} | {one['bare_memory']:.0f} |"
        )
    lines += ["", f"| guests | {' | '.join(STAGES)} |", "|---" * (len(STAGES) + 1) + "|"]
    for one in rows:
        cells = " | ".join(f"{one['stages'][name]:.2f}" for name in STAGES)
        lines.append(f"| {one['guests']} | {cells} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench labs", description=__doc__)
    parser.add_argument("--guests", default="1,2,4,8", help="how many at once (1,2,4,8)")
    parser.add_argument("--rounds", type=int, default=5, help="of each number (5)")
    parser.add_argument("--accel", choices=["auto", "require", "off"], default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options = parser.parse_args(arguments)
    numbers = [int(word) for word in options.guests.split(",")]

    from labctl import images
    from labctl.sandbox import paths

    image = images.get("micro")  # built before any clock runs, and KVM probed
    capabilities = paths.cache() / "libvirt"
    chosen = accel.choose(
        options.accel, image.kernel, image.initramfs, image.memory, images.CMDLINE, capabilities
    )
    about = machine.facts(chosen)
    for name, value in about.items():
        print(f"{name}: {value}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="labctl-bench-") as folder:
        for number in numbers:
            model = network_of(number, f"bench-{os.getpid()}-{number}")
            file = write(model, Path(folder))
            policy = "off" if chosen == "tcg" else "require"
            rows.append(row(number, *alternate(model, file, policy, chosen, options.rounds)))
    print()
    print(table(rows))
    late = [str(one["guests"]) for one in rows if one["ratio"] > UP_GOAL]
    slow = [str(one["guests"]) for one in rows if one["down_worst"] >= DOWN_GOAL]
    print()
    print(
        f"goals: up at most {UP_GOAL} x bare: {f'missed at {late}' if late else 'reached'}; ",
        end="",
    )
    print(f"down under {DOWN_GOAL:g} s: {f'missed at {slow}' if slow else 'reached'}")
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "figures": rows}, indent=2) + "\n")
