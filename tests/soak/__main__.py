"""`python -m tests.soak`: let a Xen host work for long and compare all it computes, moves, keeps.

Ends with exit status 1 at the first difference and names it. docs/soak.md tells why this is needed.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import random
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from labctl import images
from labctl.errors import LabctlError
from labctl.guests import ssh, xen, xen_host
from labctl.sandbox.deadline import Deadline
from labctl.topology import loader
from labctl.topology.model import Topology

from . import place
from .content import Content, CorruptionError, archived_files, check_files, digest, scan
from .place import End, Flow

if TYPE_CHECKING:
    from xenlive import XenLab

GUESTS = ("vm1", "vm2", "vm3")
PIECES = ((65536, 12 << 20), (4099, 4 << 20), (1447, 2 << 20), (61, 128 << 10))
"""Octets a write, octets in all: from segments of 64 KiB, that travel in several pages, down to
packets smaller than any copy is worth."""
IP_VERSIONS: tuple[Literal[4, 6], ...] = (4, 6)
OUTSIDE = 2 << 20
"""Octets sent into dom0 and a guest from outside; their SSH is slow."""
CREATIONS = 2
"""How often in a round a guest is destroyed and made anew."""
PAUSE_SECONDS = 1.5
"""After a guest's end its console's SSH session ends. A command in dom0 that began just then was
reported as failed, without a word, although it had done its work: twice in fourteen times."""
LONG_LIVED_EACH = 6
"""Each so many rounds it is one of the guests' turn that else live on."""


def victim(number: int) -> str:
    """Return the guest that is destroyed and made anew in a round; vm3 mostly."""
    if number % LONG_LIVED_EACH:
        return GUESTS[2]
    return GUESTS[number // LONG_LIVED_EACH % 2]


def flows(seed: str, mebibytes: int) -> list[Flow]:
    """Return what two guests exchange in one pass; where in their contents depends on the seed."""
    chosen = []
    source = random.Random(seed)
    for number, (piece, length) in enumerate(PIECES):
        for version in IP_VERSIONS:
            skip = source.randrange((mebibytes << 20) - length + 1)
            chosen.append(Flow(version, 5000 + 2 * number + version // 6, skip, length, piece))
    return chosen


def pairs(seed: str, mebibytes: int) -> list[tuple[Flow, Flow]]:
    """Return the flows of a pass as pairs of IPv4 and IPv6."""
    chosen = flows(seed, mebibytes)
    return list(zip(chosen[::2], chosen[1::2], strict=True))


def passes(seed: str, mebibytes: int) -> Iterator[tuple[Flow, Flow]]:
    """Give pairs of flows for ever."""
    for number in itertools.count():
        yield from pairs(f"{seed}/{number}", mebibytes)


def topology_of(guests: int) -> Topology:
    """Return a Xen host with so many guests on one bridge."""
    nodes: dict[str, object] = {"xen1": {"hypervisor": "xen"}}
    for number, name in enumerate(GUESTS[:guests], 1):
        nodes[name] = {
            "host": "xen1",
            "interfaces": [
                {"network": "lan", "addresses": [f"10.0.1.{number}/24", f"fd00:1::{number}/64"]}
            ],
        }
    subnets = ["10.0.1.0/24", "fd00:1::/64"]
    return loader.from_mapping(
        {"name": "xen-soak", "networks": {"lan": {"subnets": subnets}}, "nodes": nodes}
    )


@dataclass
class Counts:
    """What was compared, and found right."""

    rounds: int = 0
    creations: int = 0
    flows: int = 0
    sent: int = 0
    memory: int = 0
    """Octets of filled memory, read again."""
    drives: int = 0
    files: int = 0
    digests: int = 0
    late: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, **more: int) -> None:
        """Count more of these; safe from several threads."""
        with self._lock:
            for name, number in more.items():
                setattr(self, name, getattr(self, name) + number)


class Soak:
    """A running Xen host and what is known of it."""

    def __init__(self, lab: XenLab, options: argparse.Namespace) -> None:
        self.lab = lab
        self.options = options
        self.counts = Counts()
        self.generation = dict.fromkeys(GUESTS, 0)
        self.contents: dict[str, Content] = {}
        self.digests: dict[str, str] = {}
        micro, host = images.get("micro"), images.get("xen-host")
        self.files = {name: archived_files(micro.initramfs) for name in GUESTS}
        self.files["xen1"] = archived_files(host.initramfs)
        self.addresses = {
            node.name: {one.version: str(one.ip) for one in node.interfaces[0].addresses}
            for node in lab.topology.nodes.values()
            if node.interfaces
        }
        self.spoil = options.spoil

    def fill(self, name: str) -> None:
        """Fill a guest's or dom0's memory with content that no guest had before."""
        size = self.options.dom0_fill if name == "xen1" else self.options.guest_fill
        generation = self.generation.setdefault(name, 0)
        content = Content(f"{self.options.seed}/{name}/{generation}", size)
        place.fill(self.lab, name, content)
        self.contents[name] = content
        self.digests[name] = digest(content.parts())

    def end(self, name: str) -> End:
        return End(name, self.addresses[name], self.contents[name])

    def exchange(self, one: str, other: str, pair: Iterable[Flow]) -> None:
        """Let two guests exchange by a pair of flows, IPv4 and IPv6 at the same time."""
        spoil, self.spoil = self.spoil == "payload", self.spoil.replace("payload", "")
        with ThreadPoolExecutor(2) as pool:
            under_way = [
                pool.submit(place.exchange, self.lab, self.end(one), self.end(other), flow, spoil)
                for flow in pair
            ]
            for future in under_way:
                self.counts.add(sent=future.result(), flows=2, digests=2)

    def check_files(self, name: str) -> None:
        found = place.image_files(self.lab, name)
        check_files(name, self.files[name], found)
        self.counts.add(files=len(found), digests=len(found))

    def check_log(self, name: str) -> None:
        late = scan(name, place.ask(self.lab, name, "dmesg"))
        self.counts.late.update(f"{name}: {line}" for line in late)

    def check_logs(self) -> None:
        """Look at what kernels and Xen said."""
        for name in ("xen1", *GUESTS):
            self.check_log(name)
        scan("Xen", place.ask(self.lab, "xen1", "xl dmesg"))
        for one in (self.lab.host_guest, *(guest.guest for guest in self.lab.guests)):
            scan(f"the console of {one.name}", one.log.read_text(errors="replace"))

    def last_lines(self) -> str:
        """Return what dom0 still says after something broke off."""
        line = (
            "uptime; free; ps -o pid,vsz,rss,args | sort -nk3 | tail -5; df; xl list; dmesg | tail"
        )
        words = [*ssh.command(self.lab.directory, "xen1", shared=False), line]
        try:
            done = self.lab.sandbox.agent().run(words, Deadline(60, "asking dom0"), check=False)
        except LabctlError as error:
            return str(error)
        return done.stdout + done.stderr

    def renew(self, name: str) -> list[float]:
        """Destroy a guest and make it anew, a few times; return the seconds until it was usable."""
        seconds = []
        for _ in range(CREATIONS):
            begun = time.monotonic()
            self.lab.sandbox.call(xen.stop, self.lab.host, name)
            time.sleep(PAUSE_SECONDS)
            self.lab.start(name)
            seconds.append(time.monotonic() - begun)
            self.counts.add(creations=1)
            self.generation[name] += 1
            self.check_files(name)
            self.fill(name)
            self.check_log(name)
        return seconds

    def check_memory(self) -> int:
        """Read again all memory that was filled, and the files of images; return its octets."""
        with ThreadPoolExecutor(2) as pool:
            loader = [
                pool.submit(place.check_memory, self.lab, name, content, self.digests[name])
                for name, content in self.contents.items()
            ]
            looking = [pool.submit(self.check_files, name) for name in self.contents]
            for done in looking:
                done.result()
            octets = sum(done.result() for done in loader)
        self.counts.add(memory=octets, digests=len(loader))
        return octets

    def round(self) -> str:
        """Do everything once; return a line about it."""
        self.counts.add(rounds=1)
        number, begun, sent = self.counts.rounds, time.monotonic(), self.counts.sent
        name = victim(number)
        one, other = (guest for guest in GUESTS if guest != name)
        if number % 2:
            one, other = other, one  # who listens, and who is asked by the new one
        with ThreadPoolExecutor(1) as pool:
            renewing = pool.submit(self.renew, name)
            for pair in passes(str(number), self.options.guest_fill):
                self.exchange(one, other, pair)
                if renewing.done():
                    break
            seconds = renewing.result()
        for pair in pairs(f"{number}/new", self.options.guest_fill):
            self.exchange(name, one, pair)
        for asked in ("xen1", other):
            payload = random.Random(f"{number}/{asked}").randbytes(OUTSIDE)
            self.counts.add(sent=place.from_outside(self.lab, asked, payload), digests=1)
        if self.spoil == "memory":
            place.spoil_memory(self.lab, one)
        read = self.check_memory()
        drives = self.lab.host_guest.drives
        read_drives = place.check_drives(self.lab, "xen1", drives)
        self.counts.add(drives=read_drives, digests=len(drives))
        self.check_logs()
        anew = ", ".join(f"{each:.1f}" for each in seconds)
        return (
            f"{time.monotonic() - begun:.0f} s; {name} anew in {anew} s; "
            f"{(self.counts.sent - sent) / 1e6:.0f} MB sent, "
            f"{read / 1e6:.0f} MB of memory and {len(drives)} drives read"
        )


def summary(counts: Counts, minutes: float) -> str:
    """Say in a few lines what was compared."""
    return (
        f"{minutes:.1f} minutes, {counts.rounds} rounds, {counts.creations} guests made anew, "
        f"{counts.digests} digests compared:\n"
        f"  payloads: {counts.sent / 1e9:.2f} GB, {counts.flows} flows of TCP\n"
        f"  memory: {counts.memory / 1e9:.2f} GB; drives: {counts.drives / 1e9:.2f} GB; "
        f"files of images: {counts.files}\n"
        f"  lines of logs that a busy machine explains: {len(counts.late)}"
    )


def options_of(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (30)")
    parser.add_argument("--cpu", default=xen_host.CPU, metavar="MODEL", help=xen_host.CPU)
    parser.add_argument("--seed", default="soak", help="of all content")
    parser.add_argument("--memory", type=int, default=1152, help="MiB of the Xen host (1152)")
    parser.add_argument("--dom0-fill", type=int, default=128, help="MiB to fill in dom0 (128)")
    parser.add_argument("--guest-fill", type=int, default=24, help="and in each guest (24)")
    parser.add_argument(
        "--spoil", choices=["payload", "memory"], default="", help="change one octet: it must show"
    )
    return parser.parse_args(words)


def soak(options: argparse.Namespace) -> int:
    from xenlive import xen_lab

    begun = time.monotonic()

    def minutes() -> float:
        return (time.monotonic() - begun) / 60

    counts = Counts()
    print(f"CPU {options.cpu}, {options.memory} MiB, seed {options.seed}", flush=True)
    try:
        with xen_lab(
            "xen-bridged", memory=options.memory, change=lambda _: topology_of(len(GUESTS))
        ) as lab:
            lab.host_guest = dataclasses.replace(lab.host_guest, cpu=options.cpu)
            lab.boot()
            lab.start()
            work = Soak(lab, options)
            counts = work.counts
            for name in ("xen1", *GUESTS):
                work.check_files(name)
                work.fill(name)
            begun = time.monotonic()
            try:
                while not counts.rounds or minutes() < options.minutes:
                    line = work.round()
                    print(f"round {counts.rounds}, minute {minutes():.1f}: {line}", flush=True)
            except (CorruptionError, LabctlError):
                print(f"dom0 after {minutes():.1f} minutes:\n{work.last_lines()}", flush=True)
                raise
    except (CorruptionError, LabctlError) as error:
        what = "corrupted" if isinstance(error, CorruptionError) else "broke off"
        print(f"{what}: {error}\n{getattr(error, 'detail', '')}".rstrip())
        print(summary(counts, minutes()), flush=True)
        return 1
    for text in sorted(counts.late):
        print(f"late: {text}")
    print(summary(counts, minutes()))
    print("nothing was corrupted", flush=True)
    return 0


def main() -> None:
    # A Xen host for tests is put together there; no test is imported.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
    # Ended by a signal, it takes the lab down too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(soak(options_of(sys.argv[1:])))


if __name__ == "__main__":
    main()
