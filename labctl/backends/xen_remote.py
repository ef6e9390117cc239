"""A real Xen host as that of a lab (`--connect xen+ssh://root@HOST/system`), beside other things.

A lab's files are in one folder there, named by the lab and its key. SSH goes by the user's own
configuration; guests are reached through the host, their keys pinned as in every lab.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from labctl.backends.dom0 import Dom0
from labctl.backends.shared_host import SharedHost
from labctl.backends.state import State
from labctl.errors import HostError, UsageError
from labctl.events import Emit, Event
from labctl.guests import ssh, xen
from labctl.network import links
from labctl.routers import namespace
from labctl.sandbox import agent
from labctl.sandbox.base import Sandbox
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import Result, last_lines
from labctl.topology.model import Node, Topology

SECONDS = 60.0
UPLOAD_SECONDS = 600.0
FOLDER = Path("/run/labctl-dom0")
"""Where a real host keeps a folder of each lab; labs of its own are in `/run/labctl`."""
PYTHON = (3, 11)
MEMORY = 320
"""MiB free in dom0: 80 for what guests boot, as much again while Xen reads it, the rest for our
programs and the toolstack's."""
PROGRAMS = ("perl", "cpio", "gzip", "tar", "nsenter", "xl", "xenstore-read")
OPTIONS = {
    "BatchMode": "yes",  # nobody could answer
    "ConnectTimeout": "10",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "8",
    "LogLevel": "ERROR",
}
LOOK = f"""\
echo uid $(id -u)
echo memory $(grep MemAvailable /proc/meminfo)
echo python $(python3 -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null)
grep -q control_d /proc/xen/capabilities 2>/dev/null && echo dom0 yes
for one in {" ".join(PROGRAMS)}; do command -v $one >/dev/null || echo lacks $one; done
[ "$(cat /proc/sys/net/ipv6/conf/default/disable_ipv6)" = 0 ] || echo lacks IPv6
for one in /sys/class/net/*; do echo link ${{one##*/}}; done
for one in /run/netns/*; do echo namespace ${{one##*/}}; done
for one in {xen.LOGS}/*; do echo log ${{one##*/}}; done
"""
"""Shell text that tells what a host is and has, one thing a line; it changes nothing."""


class XenRemote(SharedHost):
    """The libvirt of a real Xen host, over SSH: that host is the topology's one Xen host."""

    makes_taps = False
    accel = "xen"

    def check(self, topology: Topology, emit: Emit) -> None:
        """Raise `UsageError` for a topology that is more than one Xen host and what is on it."""
        way(self.uri)
        hosts = [node.name for node in topology.xen_hosts()]
        if len(hosts) != 1:
            what = f"{len(hosts)} Xen hosts ({', '.join(hosts)})" if hosts else "no Xen host"
            raise UsageError(
                f"{topology.name} has {what}, where --connect {self.uri} needs one",
                "leave --connect away: labctl makes Xen hosts of its own",
            )
        outer = [node.name for node in topology.outer_nodes() if self.boots(node)]
        outer += [router.name for router in topology.outer_routers()]
        if outer:
            raise UsageError(
                f"{', '.join(outer)} of {topology.name} would be outside of the Xen host "
                f"{hosts[0]}, where a lab on a real one has nothing",
                f"write host: {hosts[0]} there, or leave --connect away",
            )
        if parted := [one.name for one in topology.outer_networks() if one.segments]:
            raise UsageError(
                f"the network {parted[0]} is of segments, and on a Xen host it is one bridge",
                f"leave out what {parted[0]} is made of, or leave --connect away",
            )
        if host(topology).interfaces:
            raise UsageError(
                f"{hosts[0]} has interfaces, "
                "but the NICs of a real Xen host are not a lab's to join",
                f"leave out the interfaces of {hosts[0]}, or leave --connect away",
            )

    def boots(self, node: Node) -> bool:
        """Whether it is a guest: the host itself is there already."""
        return not node.guest_kind.is_host

    def survey(self, sandbox: Sandbox, known: State) -> None:
        """Learn the way to the host; raise unless it can hold the lab. Nothing is made there.

        Raises `HostError` for a host that cannot be reached or lacks a program, `UsageError` for
        names that are taken.
        """
        to = way(self.uri)
        name = host(known.topology).name
        ssh.write_way(sandbox.directory, name, to.words, to.destination)
        answer = _ssh(sandbox, name, LOOK, SECONDS)
        if not answer.stdout:
            raise HostError(
                f"{to.destination} cannot be reached: {last_lines(answer.stderr) or 'no answer'}",
                f"this must work without a question: {to.by_hand} true",
            )
        found: dict[str, list[str]] = defaultdict(list)
        for line in answer.stdout.splitlines():
            what, _, value = line.partition(" ")
            found[what].append(value)
        _check_able(to.destination, found)
        self._check_free(known, to.destination, found)
        super().survey(sandbox, known)

    def _check_free(self, known: State, destination: str, found: Mapping[str, list[str]]) -> None:
        """Raise `UsageError` when something there has a name that the lab needs."""
        inside = known.topology.inside(host(known.topology).name)
        logs = {f"guest-{self.domain(known, node.name)}.log" for node in inside.nodes}
        taken = sorted({*self._links(known)} & {*found["link"]})
        taken += sorted({router.name for router in inside.routers} & {*found["namespace"]})
        taken += sorted(logs & {*found["log"]})
        if taken:
            raise UsageError(
                f"{destination} has these names already: {', '.join(taken)}",
                "rename the networks, nodes or routers of the topology",
            )

    def _links(self, known: State) -> list[str]:
        """Return the names of all links of a lab in dom0."""
        inside = known.topology.inside(host(known.topology).name)
        return [
            *(one.peer for router in inside.routers for one in router.interfaces),
            *(tap for node in inside.nodes for tap in self._vifs(known, node)),
            *self._bridges(known),
        ]

    def _bridges(self, known: State) -> list[str]:
        inside = known.topology.inside(host(known.topology).name)
        return [self.mgmt_bridge(known), *(network.bridge for network in inside.networks)]

    def _vifs(self, known: State, node: Node) -> dict[str, str]:
        """Return the bridge of each vif of a guest."""
        networks = known.topology.networks
        vifs = {one.tap: networks[one.network].bridge for one in node.interfaces}
        return vifs | {node.mgmt_tap: self.mgmt_bridge(known)}

    def dom0_folder(self, known: State) -> Path:
        """Return the folder in dom0 that holds all files of a lab."""
        return FOLDER / f"{known.name}-{_mark(known)}"

    def mgmt_bridge(self, known: State) -> str:
        """Return the name of a lab's management bridge in dom0."""
        return f"mgmt-{_mark(known)}"

    def ssh_through(self, topology: Topology) -> str:
        """Return the host: its guests' management bridge is there."""
        return host(topology).name

    def xen_host(self, known: State, name: str, directory: Path) -> xen.XenHost:
        """Return the host of the URI."""
        log = directory / "console" / f"{name}.log"
        return xen.XenHost(name, directory, log, real=self.uri, folder=self.dom0_folder(known))

    def dom0_files(self, known: State, *files: Path) -> Mapping[Path, str]:
        """Return where dom0 has files of this machine: by their content."""
        return {
            file: f"{self.dom0_folder(known)}/boot/{_digest(file, file.stat().st_mtime_ns)}"
            for file in files
        }

    def build_networks(self, sandbox: Sandbox, known: State) -> None:
        """Nothing to do: all networks are on the host (`prepare_dom0`)."""

    def prepare_dom0(
        self, sandbox: Sandbox, known: State, dom0: Dom0, guests: Sequence[xen.XenGuest], emit: Emit
    ) -> None:
        """Make the bridges in dom0, and put there what guests boot."""
        name = host(known.topology).name
        dom0.call(
            links.build_bridges, self.mgmt_bridge(known), known.topology.inside(name).networks
        )
        there_by_now: set[str] = set()
        for one in guests:
            for file, place in one.files.items():
                if place not in there_by_now:
                    what = "kernel" if file == one.guest.kernel else "initramfs"
                    what = f"{what} of {one.guest.name}"
                    emit(Event("upload", what, "start"))
                    size = _upload(sandbox, name, file, place)
                    emit(Event("upload", what, "done", f"{size / 1e6:.1f} MB"))
                    there_by_now.add(place)

    def settle_dom0(self, known: State, dom0: Dom0) -> None:
        """Check where the vifs are, and let them be silent: the host's own script made them."""
        nodes = known.topology.inside(host(known.topology).name).nodes
        vifs = {vif: bridge for node in nodes for vif, bridge in self._vifs(known, node).items()}
        macs = {node.mgmt_tap: node.mgmt_mac for node in nodes}
        dom0.call(links.hush_ports, vifs, self.mgmt_bridge(known), macs)

    def remove(self, sandbox: Sandbox, known: State) -> None:
        """Take away the guests, programs, namespaces, links and files of a lab.

        Raises `LabctlError` where the host cannot be asked to.
        """
        name = host(known.topology).name
        inside = known.topology.inside(name)
        there = xen.XenHost(name, sandbox.directory, Path(os.devnull), real=self.uri)
        dom0 = Dom0(sandbox, name, lambda: None, self.dom0_folder(known))
        try:
            for node in inside.nodes:
                sandbox.call(xen.stop, there, self.domain(known, node.name))
            dom0.call(agent.end_marked, f"PYTHONPATH={self.dom0_folder(known)}/")
            for router in inside.routers:
                dom0.call(namespace.remove, router)
            peers = [one.peer for router in inside.routers for one in router.interfaces]
            dom0.call(links.remove_links, [*peers, *self._bridges(known)])
        finally:
            dom0.close()
        own = shlex.quote(str(self.dom0_folder(known)))
        answer = _ssh(
            sandbox, name, f"rm -rf {own} && {{ rmdir {FOLDER} 2>/dev/null || :; }}", SECONDS
        )
        if not answer.ok:
            raise HostError(
                f"the files of {known.name} on {name} stay: {last_lines(answer.stderr)}"
            )


@dataclass(frozen=True)
class Way:
    """How to reach a host by SSH: words of ssh(1) and the destination."""

    program: str
    given: tuple[str, ...]
    """Options that the URI tells of."""
    destination: str

    @property
    def words(self) -> list[str]:
        """The program and all options."""
        options = [word for name, value in OPTIONS.items() for word in ("-o", f"{name}={value}")]
        return [self.program, *options, *self.given]

    @property
    def by_hand(self) -> str:
        """The command that a user would type."""
        return shlex.join([self.program, *self.given, self.destination])


def way(uri: str) -> Way:
    """Return the way that a libvirt URI tells of (https://libvirt.org/uri.html, SSH transport).

    Raises `UsageError` for one that is not `xen+ssh://[USER@]HOST[:PORT]/…`.
    """
    url = urlsplit(uri)
    # Not by urlsplit: its host is in small letters, but names in ssh_config(5) are not.
    place = re.fullmatch(
        r"(?:(?P<user>\w[^@/]*)@)?(?:\[(?P<six>[0-9a-fA-F:.]+(?:%[\w.-]+)?)\]|(?P<name>\w[\w.-]*))"
        r"(?::(?P<port>\d+))?",
        url.netloc,
    )
    if url.scheme != "xen+ssh" or not place:
        raise UsageError(
            f"{uri!r} does not tell how to reach a Xen host by SSH",
            "write --connect xen+ssh://root@HOST/system (HOST may be localhost)",
        )
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    options = {"-i": query.get("keyfile"), "-p": place["port"], "-l": place["user"]}
    given = [word for name, value in options.items() if value for word in (name, value)]
    return Way(query.get("command", "ssh"), tuple(given), place["six"] or place["name"])


def host(topology: Topology) -> Node:
    """Return the node that the real host is."""
    (one,) = topology.xen_hosts()
    return one


def _mark(known: State) -> str:
    """Return what tells a lab from those of others with its name."""
    return hashlib.sha256(known.client.public.encode()).hexdigest()[:8]


@functools.cache
def _digest(file: Path, _changed: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:32]


def _check_able(destination: str, found: Mapping[str, list[str]]) -> None:
    """Raise `HostError` for a host on which no lab could run."""
    if "dom0" not in found:
        raise HostError(f"{destination} is no dom0 of a Xen host", "has it booted with Xen?")
    if found["uid"] != ["0"]:
        raise HostError(
            f"a lab on {destination} takes root there, and this is another user",
            "write --connect xen+ssh://root@HOST/system",
        )
    version = tuple(int(number) for number in found["python"][0].split())
    if version < PYTHON:
        shown = ".".join(map(str, version)) or "none"
        raise HostError(
            f"dom0 of {destination} needs Python 3.11 or newer; it has {shown}", "install python3"
        )
    free = int(found["memory"][0].split()[1]) // 1024
    if free < MEMORY:
        raise HostError(
            f"dom0 of {destination} has {free} MiB of memory free; a lab there takes {MEMORY}",
            "give dom0 more: dom0_mem= of Xen, or xl mem-set 0",
        )
    if found.get("lacks"):
        lacks = ", ".join(found["lacks"])
        raise HostError(f"dom0 of {destination} lacks {lacks}", "install it, or turn it on")


def _upload(sandbox: Sandbox, name: str, file: Path, place: str) -> int:
    """Put a file where dom0 is to have it, private; return how many bytes were sent."""
    there = shlex.quote(place)
    line = (
        f"umask 077; mkdir -p {shlex.quote(str(Path(place).parent))} && "
        f"gzip -dc >{there}.part && mv {there}.part {there}"
    )
    packed = gzip.compress(file.read_bytes(), compresslevel=1, mtime=0)
    answer = _ssh(sandbox, name, line, UPLOAD_SECONDS, packed)
    if not answer.ok:
        raise HostError(f"{file} cannot be put on {name}: {last_lines(answer.stderr)}")
    return len(packed)


def _ssh(sandbox: Sandbox, name: str, line: str, seconds: float, stdin: bytes = b"") -> Result:
    words = [*ssh.command(sandbox.directory, name), line]
    return sandbox.agent().run(words, Deadline(seconds, f"asking {name}"), stdin=stdin, check=False)
