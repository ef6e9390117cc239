"""Bare QEMU: the same guests as a lab's, started all at once by nothing but this file.

What labctl would prepare (sandbox, bridges, TAPs, keys, configuration) is there before the clock
starts. Run as a program it is the part inside the sandbox, with the standard library only: it reads
a plan (JSON) from standard input, starts the guests, writes what it measured, and takes them down
when its input ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
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


def connected(path: str) -> socket.socket:
    """Connect to a socket that QEMU makes while it starts."""
    line = socket.socket(socket.AF_UNIX)
    end = time.monotonic() + LIMIT_SECONDS
    while True:
        try:
            line.connect(path)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.002)
        else:
            return line


def go_on(guest: dict[str, Any]) -> socket.socket:
    """Load a template into a QEMU that waits, let it run and tell it who it is, as labctl does."""
    with connected(guest["qmp"]) as line, line.makefile("rw") as qmp:

        def ask(command: str, **arguments: Any) -> Any:
            qmp.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            qmp.flush()
            while "event" in (told := json.loads(qmp.readline())):
                pass
            if "error" in told:
                raise RuntimeError(f"{command}: {told['error']}")
            return told["return"]

        qmp.readline()
        ask("qmp_capabilities")
        capability = {"capability": "x-ignore-shared", "state": True}
        ask("migrate-set-capabilities", capabilities=[capability])
        ask("migrate-set-parameters", **{"announce-rounds": 0})
        ask("migrate-incoming", uri=f"exec:cat {guest['state']}")
        while ask("query-status")["status"] == "inmigrate":
            time.sleep(0.002)
        ask("cont")
    console = connected(guest["console"])
    config = guest["config"].encode()
    now = divmod(time.time_ns(), 10**9)
    seed = os.urandom(64).hex().encode()
    console.sendall(b"labctl %d %d %b %d\n" % (*now, seed, len(config)) + config)
    return console


def wait_ready(guest: dict[str, Any], begun: float, seconds: list[float]) -> None:
    console = go_on(guest) if "state" in guest else None  # open until it has read all
    log = Path(guest["log"])
    while not log.exists() or READY not in log.read_bytes():
        if time.monotonic() - begun > LIMIT_SECONDS:
            return
        time.sleep(LOOK_SECONDS)
    told = guest["first"].encode()
    done = subprocess.run(guest["ssh"], input=told, capture_output=True, check=False)
    if console:
        console.close()
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
    from labctl.guests import domain

    words = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"]
    words += ["-name", guest.name, "-machine", "pc,usb=off", "-no-shutdown"]
    if accel == "tcg":
        without = "".join(f",{name}=off" for name in domain.SLOW_FEATURES)
        words += ["-accel", f"tcg,tb-size={tb_cache}", "-cpu", f"max{without}"]
    else:
        words += ["-accel", "kvm", "-cpu", "host,migratable=off,arch-capabilities=off"]
    words += ["-m", str(guest.memory), "-smp", str(guest.vcpus)]
    if guest.clone:
        memory = f"size={guest.memory}M,mem-path={guest.clone.template.memory},share=off"
        words += ["-object", f"memory-backend-file,id=saved,{memory}", "-incoming", "defer"]
        words += ["-machine", "memory-backend=saved", "-device", "vmgenid,guid=auto"]
        socket_of = f"socket,id=c,path={guest.console},server=on,wait=off,logfile={guest.log}"
        words += ["-chardev", socket_of, "-serial", "chardev:c"]
        words += ["-qmp", f"unix:{guest.log}.qmp,server=on,wait=off"]
    else:
        words += ["-kernel", str(guest.kernel), "-initrd", str(guest.initramfs)]
        words += ["-append", guest.cmdline, "-serial", f"file:{guest.log}"]
    for number, nic in enumerate(guest.nics):
        words += ["-netdev", f"tap,id=n{number},ifname={nic.tap},script=no,downscript=no"]
        device = f"virtio-net-pci,netdev=n{number},mac={nic.mac},romfile=,addr={number + 2:#x}"
        words += ["-device", device]
    if guest.clone:
        return words
    words += ["-object", "rng-random,id=rng0,filename=/dev/urandom"]
    return [*words, "-device", "virtio-rng-pci,rng=rng0"]


@contextlib.contextmanager
def prepared(topology: Any, accel: str, clones: bool) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Make a sandbox with everything but the guests; give it and the plan of the guests.

    Those that are `clones` have a template in the cache.
    """
    from labctl import images
    from labctl.backends.state import State
    from labctl.guests import domain, keys, ready, ssh
    from labctl.lab import machines
    from labctl.lab.lab import Lab
    from labctl.lab.qemu import clone_of, templates_of, with_files
    from labctl.network import links
    from labctl.sandbox import paths
    from labctl.sandbox.namespaces import Namespaces

    with tempfile.TemporaryDirectory(prefix=".bench-", dir=paths.runtime()) as parent:
        sandbox = Namespaces.create(Path(parent) / "w")
        try:
            sandbox.call(links.build, topology)
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
            making = lab._making()
            lab._write_ssh()
            (sandbox.directory / "console").mkdir()
            guests = [machines.build(making, node) for node in topology.nodes.values()]
            templates = {}
            if clones:
                templates = templates_of(making, guests)
                if len(templates) != len(topology.nodes):
                    raise RuntimeError("there is no template")
            sandbox.close()  # an idle agent must not count on either side
            plan = []
            for guest in guests:
                saved = templates.get(guest.name)
                guest = clone_of(guest, saved) if saved else with_files(making, guest)
                line, script = ready.first_words(guest)
                one = {
                    "qemu": qemu(guest, accel, domain.TB_CACHE_MIB),
                    "log": str(guest.log),
                    "ssh": [*ssh.command(sandbox.directory, guest.name), line],
                    "first": script.decode(),
                }
                if guest.clone:
                    one |= {
                        "state": str(guest.clone.template.state),
                        "console": str(guest.console),
                        "qmp": f"{guest.log}.qmp",
                        "config": guest.clone.config,
                    }
                plan.append(one)
            yield sandbox, plan
        finally:
            sandbox.end()


def measure(topology: Any, accel: str, clones: bool = False) -> Bare:
    """Start the guests of a topology once as bare QEMU, all at once."""
    from . import machine

    with prepared(topology, accel, clones) as (sandbox, plan):
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
