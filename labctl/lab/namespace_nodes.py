"""Nodes that are network namespaces of the lab: how they are made, and how one works in them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.errors import GuestError, HostError
from labctl.events import Event
from labctl.guests import ethtool, namespace_init
from labctl.guests.namespace_init import HOME, KEPT, Launch
from labctl.lab.guest_state import RUNNING, Condition
from labctl.lab.machines import Making, Starter
from labctl.lab.node import Node
from labctl.lab.waiting import listening
from labctl.network import confined, features
from labctl.routers import namespace
from labctl.sandbox import atomic, process, seccomp
from labctl.sandbox.base import Process
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import last_lines
from labctl.sandbox.remote import remote
from labctl.topology import model
from labctl.topology.features import FEATURES, kernel_names

FOLDER = "namespaces"
"""Below a lab's directory."""
START_SECONDS = 60.0
LOOK_SECONDS = 0.005
SSH_PORT = 22
SSH_FILES = "/run/labctl"
_ACCEPTS = 1 << 16
"""A flag of a UNIX socket that listens: __SO_ACCEPTCON (include/uapi/linux/net.h)."""
_ENTER = ("--mount", "--uts", "--ipc", "--net", "--pid")
_UNSHARE = ("--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child")
_SHELL = "command -v bash >/dev/null && exec bash -l || exec sh -l"


@dataclass(frozen=True)
class SshServer:
    """An SSH server that a host may have."""

    program: str
    key: str
    """The form of host key that it reads: a field of `labctl.guests.keys.Key`."""
    options: str


SERVERS = (
    SshServer(
        "sshd",
        "openssh",
        f"-D -e -f none -h {SSH_FILES}/hostkey -o PidFile=none -o UsePAM=no -o StrictModes=no"
        " -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no",
    ),
    SshServer("dropbear", "dropbear", f"-F -E -s -p 22 -r {SSH_FILES}/hostkey"),
)
"""The first one that the host has serves SSH in its namespace nodes."""


def ssh_server() -> SshServer | None:
    """Return the SSH server of this host; None where it has none."""
    path = process.ENVIRONMENT["PATH"]
    return next((one for one in SERVERS if shutil.which(one.program, path=path)), None)


@dataclass(frozen=True)
class Files:
    """What a lab's directory has of a namespace node."""

    launch: Path
    note: Path
    view: Path
    out: Path
    err: Path

    @classmethod
    def of(cls, directory: Path, node: str) -> Files:
        """Return the names of the files, whether they are there or not."""
        base = directory / FOLDER / node
        suffixes = (".launch", ".pid", ".view", ".log", ".errors.log")
        return cls(*(base.with_name(f"{node}{suffix}") for suffix in suffixes))


@dataclass(frozen=True)
class NamespaceSpec:
    """What a namespace node is made of."""

    node: model.Node
    bridges: Mapping[str, str]
    """The link that each interface is a port of."""
    launch: Launch
    server: SshServer | None

    @property
    def plugged(self) -> model.Router:
        """The node as what is made in the way of a router: a namespace with veth pairs."""
        ports = (
            model.RouterInterface(
                one.name, one.network, one.addresses, one.mac, one.mtu, one.tap, one.labels,
                one.segment,
            )
            for one in self.node.interfaces
        )  # fmt: skip
        return model.Router(self.node.name, "", tuple(ports), self.node.routes)


def build(making: Making, node: model.Node) -> NamespaceSpec:
    """Return what a namespace node is made of."""
    known, files = making.known, Files.of(making.directory, node.name)
    server = ssh_server()
    others = [one for one in known.topology.nodes.values() if one.name != node.name]
    named = [(node.name, "127.0.0.1"), (node.name, "::1")]
    named += [(one.name, address) for one in others for address in _addresses(one)]
    hosts = ["127.0.0.1 localhost", "::1 localhost", *(f"{at} {name}" for name, at in named)]
    trusted = [
        f"{name} {known.hostkeys[one.name].public}"
        for one in others
        for name in (one.name, *_addresses(one))
    ]
    clients = [known.clients[one.name].public for one in others if one.name in known.clients]
    texts = {
        f"{HOME}/.ssh/id_ed25519": known.clients[node.name].openssh,
        f"{HOME}/.ssh/known_hosts": "".join(f"{line}\n" for line in trusted),
        f"{HOME}/.ssh/authorized_keys": "".join(f"{line}\n" for line in clients),
        f"{HOME}/.ssh/config": "StrictHostKeyChecking yes\nUpdateHostKeys no\nLogLevel ERROR\n",
    }
    if server:
        texts[f"{SSH_FILES}/hostkey"] = getattr(known.hostkeys[node.name], server.key)
    launch = Launch(
        node.name, files.note, files.view, making.directory, listening_sockets(), texts,
        "".join(f"{line}\n" for line in hosts),
    )  # fmt: skip
    return NamespaceSpec(node, known.topology.bridges(node), launch, server)


def listening_sockets(table: Path = Path("/proc/net/unix")) -> list[str]:
    """Return the paths of the sockets that programs of this host listen on.

    The columns of the table are those of unix_seq_show() in net/unix/af_unix.c.
    """
    found = set()
    for line in table.read_bytes().splitlines()[1:]:
        columns = line.split(maxsplit=7)
        if len(columns) == 8 and int(columns[3], 16) & _ACCEPTS and columns[7].startswith(b"/"):
            found.add(os.fsdecode(columns[7]))
    return sorted(found)


def _addresses(node: model.Node) -> list[str]:
    return [str(address.ip) for one in node.interfaces for address in one.addresses]


@remote
def end_process(process: confined.Noted) -> None:
    """End the first process of a node, where it still runs."""
    confined.end(process)


class NamespaceStarter(Starter):
    """Makes namespaces with their veth pairs, and a first process in each."""

    def start(self, built: Sequence[NamespaceSpec], host: str) -> Collection[str]:
        """Make namespaces; each is ready when its first process says so, and its SSH server."""
        assert not host, "namespaces are in the lab itself"
        sandbox = self.making.sandbox
        (self.making.directory / FOLDER).mkdir(mode=0o700, exist_ok=True)
        started = []
        for one in built:
            sandbox.call(namespace.build, one.plugged, one.bridges)
            for interface in one.node.interfaces:
                if wanted := interface.offload.guest:
                    sandbox.call(features.change, interface.name, wanted, one.node.name)
            started.append(self._begin(one))
        for one, first in zip(built, started, strict=True):
            self._await(one, first)
        servers = [(one, self._serve(one, one.server)) for one in built if one.server]
        for one, server in servers:
            self._await_server(one, server)
        return ()

    def stop(self, built: NamespaceSpec) -> None:
        """End all of its processes with the first one, and take its namespace away."""
        files = Files.of(self.making.directory, built.node.name)
        if noted := confined.noted(files.note):
            self.making.sandbox.call(end_process, noted)
        for file in (files.note, files.out, files.err, *self._server_files(built)):
            file.unlink(missing_ok=True)
        self.making.sandbox.call(namespace.remove, built.plugged)

    def condition(self, node: model.Node) -> Condition:
        """Return whether its first process runs: with it all of the node's processes end."""
        noted = confined.noted(Files.of(self.making.directory, node.name).note)
        sandbox = self.making.sandbox
        if noted is None or not noted.is_it(sandbox.process(noted.pid)):
            return Condition("ended")
        return Condition("stopped") if sandbox.is_stopped(noted.pid) else RUNNING

    def _begin(self, one: NamespaceSpec) -> Process:
        files = Files.of(self.making.directory, one.node.name)
        files.view.mkdir(mode=0o700, exist_ok=True)
        atomic.write(files.launch, one.launch.text())  # for us alone
        sandbox = self.making.sandbox
        words = ["unshare", *_UNSHARE, "--", *sandbox.python, "-m", namespace_init.__name__]
        return Process.start(
            sandbox.agent(), [*words, str(files.launch)],
            stdout=files.out, stderr=files.err, netns=one.node.name, detached=True,
        )  # fmt: skip

    def _await(self, one: NamespaceSpec, first: Process) -> None:
        files = Files.of(self.making.directory, one.node.name)
        deadline = Deadline(START_SECONDS, f"making the namespace {one.node.name}")
        while "ready" not in files.out.read_text(errors="replace"):
            if first.poll() is not None:
                said = last_lines(files.err.read_text(errors="replace")) or "without a word"
                hint = "it takes Linux 5.12 or later" if "mount_setattr" in said else ""
                raise HostError(f"the namespace {one.node.name} cannot be made: {said}", hint)
            deadline.pause(LOOK_SECONDS)

    def _serve(self, one: NamespaceSpec, server: SshServer) -> Process:
        """Start its SSH server."""
        out, err = self._server_files(one)
        prepare = "mkdir -p -m 755 /run/sshd"
        if server.key == "dropbear":  # its file is binary
            key = f"{SSH_FILES}/hostkey"
            prepare = f"base64 -d {key} >{key}.raw && mv {key}.raw {key}"
        path = shutil.which(server.program, path=process.ENVIRONMENT["PATH"]) or server.program
        words = self._node(one).words(f"{prepare} && exec {path} {server.options}")
        agent = self.making.sandbox.agent()
        return Process.start(agent, words, stdout=out, stderr=err, detached=True)

    def _await_server(self, one: NamespaceSpec, started: Process) -> None:
        """Wait until an SSH server listens; that it does not start is told by an event."""
        name, node = one.node.name, self._node(one)
        deadline = Deadline(START_SECONDS, f"starting the SSH server of {name}")
        while not node.serves_ssh:
            if started.poll() is not None:
                said = last_lines(self._server_files(one)[1].read_text(errors="replace"), 1)
                words = f"its SSH server ended: {said or 'without a word'}"
                self.making.emit(Event("ssh", name, "failed", words))
                return
            deadline.pause(LOOK_SECONDS)

    def _server_files(self, one: NamespaceSpec) -> tuple[Path, Path]:
        base = Files.of(self.making.directory, one.node.name).out
        name = one.node.name
        return base.with_name(f"{name}.ssh.log"), base.with_name(f"{name}.ssh.errors.log")

    def _node(self, one: NamespaceSpec) -> NamespaceNode:
        making = self.making
        return NamespaceNode(making.sandbox, making.directory, one.node, lambda _ask: None)


class NamespaceNode(Node):
    """A node that is a network namespace of a running lab.

    A command enters its namespaces, with few rights and a fixed small environment.
    """

    @property
    def serves_ssh(self) -> bool:
        """Whether an SSH server listens in it."""
        return SSH_PORT in listening(self)

    def words(self, line: str, *, shared: bool = True) -> list[str]:  # noqa: ARG002
        """Return the words that, run inside the sandbox, let a shell in the node read a line.

        Raises `GuestError` where it has no first process any more.
        """
        return [*self._enter(), "sh", "-c", line]

    def session(self, command: Sequence[str] = ()) -> list[str]:
        """Return the words that open a shell on this terminal, or let it read a command's."""
        words = command[1:] if command[:1] in (("--",), ["--"]) else command  # as ssh(1) does
        return self.words(" ".join(words) if words else _SHELL)

    def _enter(self) -> list[str]:
        noted = confined.noted(Files.of(self._directory, self.name).note)
        if noted is None:
            raise GuestError(f"{self.name} has ended", "run: labctl status")
        path = f"PATH={process.ENVIRONMENT['PATH']}"
        term = [f"TERM={os.environ['TERM']}"] if "TERM" in os.environ else []
        bounds = f"--bounding-set=-all,{','.join(f'+{name}' for name in KEPT)}"
        return [
            sys.executable, "-P", "-m", seccomp.__name__,
            "nsenter", f"--target={noted.pid}", *_ENTER, "--",
            "setpriv", bounds, "--inh-caps=-all", "--no-new-privs", "--",
            "env", "-i", path, f"HOME={HOME}", "USER=root", "LOGNAME=root", "LC_ALL=C.UTF-8", *term,
        ]  # fmt: skip

    def _is_unreached(self, status: int) -> bool:  # noqa: ARG002
        return True  # a shell in it announces itself: else it was not entered

    def console(self, lines: int = 12) -> str:  # noqa: ARG002
        """Return nothing: it has no console."""
        return ""

    def features(self, interface: str = "eth0") -> dict[str, ethtool.Feature]:
        """Return the offload features of an interface, by the names that ethtool(8) prints."""
        name = self.interface(interface).name
        return as_ethtool(self._sandbox.call(features.read, name, self.name))

    def set_features(
        self, wanted: Mapping[str, bool], interface: str = "eth0"
    ) -> dict[str, ethtool.Feature]:
        """Set offload features by ethtool's names; return all of them as they were before."""
        before = self.features(interface)
        name = self.interface(interface).name
        self._sandbox.call(features.change, name, dict(wanted), self.name)
        return before

    def restore_features(
        self, before: Mapping[str, ethtool.Feature], interface: str = "eth0"
    ) -> None:
        """Put back what `set_features` returned; raises `HostError` for what cannot be."""
        name = self.interface(interface).name
        single = {
            kernel_names(word)[0]: features.Feature(feature.active, feature.fixed)
            for word, feature in before.items()
            if len(kernel_names(word)) == 1
        }
        self._sandbox.call(features.restore, name, single, self.name)


def as_ethtool(found: features.Features) -> dict[str, ethtool.Feature]:
    """Return features as `ethtool -k` prints them: groups, and the kernel's names below them."""
    told: dict[str, ethtool.Feature] = {}
    for word in dict.fromkeys(FEATURES.values()):
        its = [found[name] for name in kernel_names(word) if name in found]
        if its:
            active = any(one.active for one in its)
            told[word] = ethtool.Feature(active, all(one.fixed for one in its), active)
    return told
