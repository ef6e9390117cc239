"""Bare QEMU: the same guests as a lab's, started all at once by nothing but this file.

What labctl would prepare (sandbox, bridges, TAPs, keys, configuration) is there before the clock
starts. Run as a program it is the part inside the sandbox, with the standard library only: it reads
a plan (JSON) from standard input, starts the guests, writes what it measured, and takes them down
when its input ends.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY = b"labctl: ready"
LOOK_SECONDS = 0.02
"""The same rule as labctl's: look at the console this often, then knock once by SSH."""
LIMIT_SECONDS = 300.0


@dataclass(frozen=True)
class Bare:
    """What one start of bare QEMU gave: seconds, and MiB of each guest."""

    up: float
    down: float
    cpu: float
    """CPU seconds of all QEMUs until the last was ready."""
    memory: list[float]


# --- inside the sandbox ---------------------------------------------------------------------------


def wait_ready(guest: dict[str, Any], begun: float, seconds: list[float]) -> None:
    log = Path(guest["log"])
    while not log.exists() or READY not in log.read_bytes():
        if time.monotonic() - begun > LIMIT_SECONDS:
            return
        time.sleep(LOOK_SECONDS)
    done = subprocess.run(guest["ssh"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode == 0:
        seconds.append(time.monotonic() - begun)
    else:
        sys.stderr.buffer.write(done.stderr)


def run_inside() -> None:
    plan = json.loads(sys.stdin.readline())
    seconds: list[float] = []
    begun = time.monotonic()
    running = [subprocess.Popen(guest["qemu"], stdin=subprocess.DEVNULL) for guest in plan]
    waiting = [threading.Thread(target=wait_ready, args=(guest, begun, seconds)) for guest in plan]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    up = time.monotonic() - begun
    print(json.dumps({"ready": len(seconds), "up": up, "pids": [p.pid for p in running]}))
    sys.stdout.flush()
    sys.stdin.read()
    begun = time.monotonic()
    for process in running:
        process.kill()
    for process in running:
        process.wait()
    print(json.dumps({"down": time.monotonic() - begun}))


# --- outside ------------------------------------------------------------------------------------


def qemu(guest: Any, accel: str, tb_cache: int) -> list[str]:
    """Say what libvirt says where it changes what the guest does, and nothing of its plumbing."""
    words = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"]
    words += ["-name", guest.name, "-machine", "pc,usb=off", "-no-shutdown"]
    if accel == "tcg":
        words += ["-accel", f"tcg,tb-size={tb_cache}", "-cpu", "max"]
    else:
        words += ["-accel", "kvm", "-cpu", "host,migratable=off,arch-capabilities=off"]
    words += ["-m", str(guest.memory), "-smp", str(guest.vcpus)]
    words += ["-kernel", str(guest.kernel), "-initrd", str(guest.initramfs)]
    words += ["-append", guest.cmdline, "-serial", f"file:{guest.log}"]
    for number, nic in enumerate(guest.nics):
        words += ["-netdev", f"tap,id=n{number},ifname={nic.tap},script=no,downscript=no"]
        words += ["-device", f"virtio-net-pci,netdev=n{number},mac={nic.mac},romfile="]
    words += ["-object", "rng-random,id=rng0,filename=/dev/urandom"]
    return [*words, "-device", "virtio-rng-pci,rng=rng0"]


@contextlib.contextmanager
def prepared(topology: Any, accel: str) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Make a sandbox with everything but the guests; give it and the plan of the guests."""
    from labctl import images
    from labctl.backends.state import State
    from labctl.guests import domain, keys, ssh
    from labctl.lab import machines
    from labctl.lab.lab import Lab
    from labctl.lab.qemu import with_files
    from labctl.network import links
    from labctl.sandbox import paths
    from labctl.sandbox.namespaces import Namespaces

    with tempfile.TemporaryDirectory(prefix=".bench-", dir=paths.runtime()) as parent:
        sandbox = Namespaces.create(Path(parent) / "w")
        try:
            sandbox.call(links.build, topology)
            sandbox.close()  # an idle agent must not count on either side
            known = State(
                name=topology.name,
                topology=topology,
                accel=accel,  # type: ignore[arg-type]
                images={name: images.get(node.image) for name, node in topology.nodes.items()},
                client=keys.Key.make(),
                hostkeys={name: keys.Key.make() for name in topology.nodes},
                uri="",
                started="",
                complete=False,
            )
            # The lab writes what is given to the guests, so that both sides boot the same.
            lab = Lab(sandbox, known)
            lab._write_ssh()
            (sandbox.directory / "console").mkdir()
            making = lab._making()
            plan = []
            for node in topology.nodes.values():
                guest = with_files(making, machines.build(making, node))
                plan.append(
                    {
                        "qemu": qemu(guest, accel, domain.TB_CACHE_MIB),
                        "log": str(guest.log),
                        "ssh": [*ssh.command(sandbox.directory, node.name), "true"],
                    }
                )
            yield sandbox, plan
        finally:
            sandbox.end()


def measure(topology: Any, accel: str) -> Bare:
    """Start the guests of a topology once as bare QEMU, all at once."""
    from . import machine

    with prepared(topology, accel) as (sandbox, plan):
        inside = subprocess.Popen(
            [*sandbox.enter(), sys.executable, "-I", "-S", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert inside.stdin
        assert inside.stdout
        with inside:
            inside.stdin.write(json.dumps(plan) + "\n")
            inside.stdin.flush()
            first = json.loads(inside.stdout.readline() or "{}")
            if first.get("ready") != len(plan):
                raise RuntimeError(f"bare QEMU: {first.get('ready')} of {len(plan)} became ready")
            cpu = sum(machine.cpu(sandbox, pid) for pid in first["pids"])
            used = [machine.memory(sandbox, pid) for pid in first["pids"]]
            inside.stdin.close()
            last = json.loads(inside.stdout.readline())
    return Bare(first["up"], last["down"], cpu, used)


if __name__ == "__main__":
    run_inside()
