"""`labctl up` and `down` as a user sees them, cloning and cold, beside bare QEMU that does each.

All sides take turns in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from labctl import topology
from labctl.guests import accel
from labctl.lab import state
from labctl.sandbox import namespaces
from labctl.topology.model import Topology

from . import bare, machine
from . import peer as peers

STAGES = ("start", "images", "sandbox", "network", "boot", "rest")
WARM_GOALS, WARM_GOAL = {1: 0.35, 2: 0.30}, 0.20
"""Times bare QEMU's boot: by the number of guests, and of any other number."""
FLOOR_GOAL = 1.3
"""Times bare QEMU that clones in the same way."""
COLD_GOAL = 1.10
PEER_GOAL = 0.20
"""Times munet."""
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


def measure(model: Topology, file: Path, policy: str, *options: str) -> Ours:
    """Bring a lab up and down once."""
    folder = state.directory(model.name)
    try:
        before = machine.children_cpu()
        up, told = labctl("up", str(file), "--accel", policy, *options)
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


Side = Callable[[], Ours | bare.Bare]


def sides(
    model: Topology, file: Path, policy: str, chosen: str, munet: Path | None = None
) -> dict[str, Side]:
    """Return what is compared, each a function that measures it once.

    One of them is munet, where a Python is given that has it.
    """
    peer: dict[str, Side] = {}
    if munet:
        peer["munet"] = partial(peers.measure, munet, model, chosen)
    return peer | {
        "labctl": lambda: measure(model, file, policy),
        "cold": lambda: measure(model, file, policy, "--cold"),
        "bare": lambda: bare.measure(model, chosen),
        "floor": lambda: bare.measure(model, chosen, clones=True),
    }


def alternate(sides: Mapping[str, Side], guests: int, rounds: int) -> dict[str, list[Any]]:
    """Measure all sides in turns; which goes first changes every round."""
    found: dict[str, list[Any]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(sides[name]())
        told = ", ".join(f"{name} {found[name][-1].up:.2f} s" for name in names)
        print(
            f"  {guests} guests, round {number + 1} of {rounds}: {told}",
            file=sys.stderr,
            flush=True,
        )
    return found


def row(guests: int, found: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the figures of one number of guests: medians, ratios to bare QEMU, and the noise."""
    base = [one.up for one in found["bare"]]
    floor = median(one.up for one in found["floor"])
    told: dict[str, Any] = {
        "guests": guests,
        "noise": (max(base) - min(base)) / median(base),
        "to_floor": median(one.up for one in found["labctl"]) / floor,
        "sides": {},
    }
    for name, rounds in found.items():
        up = [one.up for one in rounds]
        told["sides"][name] = {
            "up": median(up),
            "ratio": median(up) / median(base),
            "best": min(up) / min(base),
            "cpu": median(one.cpu for one in rounds),
            "down": median(one.down for one in rounds),
            "down_worst": max(one.down for one in rounds),
            "memory": median(value for one in rounds for value in one.memory),
            "rounds": [asdict(one) for one in rounds],
        }
    for name in ("labctl", "cold"):
        told["sides"][name]["stages"] = {
            stage: median(one.stages[stage] for one in found[name]) for stage in STAGES
        }
    return told


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay the figures out as Markdown tables."""
    lines = [
        "| guests | side | up, s | to bare | the best | CPU, s | down, s (worst) | PSS, MiB |",
        "|---" * 8 + "|",
    ]
    for one in rows:
        for name, side in one["sides"].items():
            lines.append(
                f"| {one['guests']} | {name} | {side['up']:.2f} | {side['ratio']:.2f} "
                f"| {side['best']:.2f} | {side['cpu']:.2f} "
                f"| {side['down']:.2f} ({side['down_worst']:.2f}) | {side['memory']:.0f} |"
            )
    lines += ["", "| guests | labctl to the floor | noise of bare |", "|---" * 3 + "|"]
    lines += [f"| {one['guests']} | {one['to_floor']:.2f} | {one['noise']:.0%} |" for one in rows]
    lines += ["", f"| guests | side | {' | '.join(STAGES)} |", "|---" * (len(STAGES) + 2) + "|"]
    for one in rows:
        for name in ("labctl", "cold"):
            stages = one["sides"][name]["stages"]
            cells = " | ".join(f"{stages[stage]:.2f}" for stage in STAGES)
            lines.append(f"| {one['guests']} | {name} | {cells} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench labs", description=__doc__)
    parser.add_argument("--guests", default="1,2,4,8", help="how many at once (1,2,4,8)")
    parser.add_argument("--rounds", type=int, default=5, help="of each number (5)")
    parser.add_argument("--accel", choices=["auto", "require", "off"], default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--munet", type=Path, metavar="PYTHON", help="compare munet, which it has")
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
            found = alternate(
                sides(model, file, policy, chosen, options.munet), number, options.rounds
            )
            rows.append(row(number, found))
    print()
    print(table(rows))
    print()
    for one in rows:
        warm, cold = one["sides"]["labctl"], one["sides"]["cold"]
        goals = {
            "of bare QEMU": (warm["ratio"], WARM_GOALS.get(one["guests"], WARM_GOAL)),
            "of the floor": (one["to_floor"], FLOOR_GOAL),
            "cold": (cold["ratio"], COLD_GOAL),
            "down, s": (max(warm["down_worst"], cold["down_worst"]), DOWN_GOAL),
        }
        if peer := one["sides"].get("munet"):
            goals["of munet"] = (warm["up"] / peer["up"], PEER_GOAL)
        told = "; ".join(
            f"{name} {value:.2f}, {'reached' if value <= goal else f'missed ({goal:g})'}"
            for name, (value, goal) in goals.items()
        )
        print(f"goals, {one['guests']} guests: {told}")
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "figures": rows}, indent=2) + "\n")
