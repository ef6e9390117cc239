"""munet beside labctl: the same guests, of the same kernel and initramfs, on one bridge.

It is the nearest peer that starts QEMU guests from a YAML file (PyPI, `munet`), and no dependency
of labctl's: another Python has it. Run as a program by that Python this file brings a topology of
munet's up and down, in namespaces of its own, and writes what it measured. What munet does with a
guest is its own: it boots q35 with the firmware of its NICs, logs in on the serial console and sets
addresses by commands there.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bare import Bare

PATIENCE = "600"
"""Seconds that munet waits for a prompt."""
BUSY = 900.0
"""Seconds after which a run of munet is given up."""


# --- run by a Python that has munet, in a process namespace of its own --------------------------


def _qemus() -> Iterator[Path]:
    """Yield the folder in /proc of each QEMU of this process namespace."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (folder / "comm").read_text().startswith("qemu-system"):
            yield folder


async def _run(config: str, place: str, begun: float) -> None:
    from munet.parser import async_build_topology, get_config  # type: ignore[import-not-found]

    lab = await async_build_topology(get_config(config), rundir=place)
    try:
        await lab.run()
        guests = [one for one in lab.hosts.values() if getattr(one, "conrepl", None)]
        answered = sum(one.conrepl.cmd_status("true")[0] == 0 for one in guests)
        up = time.monotonic() - begun
        ticks, memory = 0, []
        for folder in _qemus():
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
            lines = (folder / "smaps_rollup").read_text().splitlines()
            memory += [int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")]
        down = time.monotonic()
    finally:
        await lab.async_delete()
    seconds = time.monotonic() - down
    cpu = ticks / os.sysconf("SC_CLK_TCK")
    print(json.dumps({"ready": answered, "up": up, "down": seconds, "cpu": cpu, "memory": memory}))


# --- outside ------------------------------------------------------------------------------------


def _config(topology: Any, accel: str) -> dict[str, Any]:
    """Return munet's topology of the same guests: JSON, which is YAML too."""
    from labctl import images
    from labctl.guests import domain

    nodes = []
    for node in topology.nodes.values():
        kind, image = node.guest_kind, images.get(node.image)
        without = "".join(f",{name}=off" for name in domain.SLOW_FEATURES)
        tcg = ["-accel", f"tcg,tb-size={domain.TB_CACHE_MIB}", "-cpu", f"max{without}"]
        qemu = {
            "kernel": str(image.kernel),
            "initrd": str(image.initramfs),
            "memory": f"{node.memory}M",
            "ncpu": node.vcpus,
            "cmdline-extra": kind.cmdline.replace("console=ttyS0 ", ""),
            "extra-args": tcg if accel == "tcg" else [],
            "kvm": accel == "kvm",
            # Its first serial port is then the one that it talks to, and the image's console.
            "console": {"stdio": False, "timeout": int(PATIENCE)},
        }
        address = str(node.interfaces[0].addresses[0])
        wire = {"to": "lan", "name": "eth0", "ip": address}
        nodes.append({"name": node.name, "connections": [wire], "qemu": qemu})
    networks = [{"name": "lan", "ip": "10.9.255.254/16"}]
    return {"version": 1, "topology": {"networks": networks, "nodes": nodes}}


def measure(python: Path, topology: Any, accel: str) -> Bare:
    """Bring the guests of a topology up and down once by munet, which `python` has."""
    from .bare import Bare

    # -I: beside this file lies an inspect.py that is not Python's.
    with tempfile.TemporaryDirectory(prefix="labctl-peer-") as folder:
        config = Path(folder) / "munet.yaml"
        config.write_text(json.dumps(_config(topology, accel)))
        begun = time.monotonic()
        done = subprocess.run(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
             python, "-I", Path(__file__).resolve(), config, f"{folder}/run", str(begun)],
            capture_output=True, text=True, check=False, timeout=BUSY,
        )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    if told.get("ready") != len(topology.nodes):
        raise RuntimeError(f"munet: {told} of {len(topology.nodes)}: {done.stderr[-2000:]}")
    return Bare(told["up"], told["down"], told["cpu"], told["memory"])


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], sys.argv[2], float(sys.argv[3])))
