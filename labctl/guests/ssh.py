"""OpenSSH into guests over the management network: one configuration file a lab.

`ControlMaster` keeps one connection a guest, so that a command costs a few hundredths of a second
and no handshake. Host keys are pinned: the lab made them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.guests import askpass, secret_texts
from labctl.guests.keys import Key
from labctl.sandbox import atomic
from labctl.topology.login import Login
from labctl.topology.model import link_local

CONFIG = "ssh_config"
IDENTITY = "id_ed25519"
KNOWN_HOSTS = "known_hosts"
SOCKETS = "c"
"""Folder of the connections that are shared, each a socket with the name of its node."""
BEGINNING = "." + "x" * 16
"""What ssh(1) puts behind a socket's name until it listens (OpenSSH's muxserver_listen, mux.c)."""
WAYS = "ways"
"""Folder of the ways to hosts that are not of the lab's own (`write_way`)."""


@dataclass(frozen=True)
class Host:
    """A guest that is logged in to."""

    mac: str
    """Of its management interface."""
    public: str
    """Its host key, which the lab made."""
    login: Login | None = None
    """How to get into it, where it has neither that key nor the lab's: then the key that it shows
    first is the one that it is known by."""


def write_config(
    directory: Path, bridge: str, client: Key, hosts: Mapping[str, Host], through: str = ""
) -> Path:
    """Write `ssh_config`, the client's key and `known_hosts` into `directory`.

    `hosts` are reached `through` a host with a way (`write_way`) if one is named; there is `bridge`
    then. Returns the config file.
    """
    identity = directory / IDENTITY
    atomic.write(identity, client.openssh)
    known = directory / KNOWN_HOSTS
    ours = {name: one for name, one in hosts.items() if one.login is None}
    atomic.write(known, "".join(f"{name} {one.public}\n" for name, one in ours.items()))
    sockets = directory / SOCKETS
    sockets.mkdir(exist_ok=True, mode=0o700)
    text = []
    for name, one in hosts.items():
        # A percent sign starts a token in HostName, so the scope's is doubled.
        address = f"{link_local(one.mac)}%%{bridge}"
        text.append(f"Host {name}\n  HostName {address}\n  HostKeyAlias {name}\n")
        if through:
            text.append(
                f"  ProxyCommand {_passing_on(command(directory, through, shared=False))}\n"
            )
        if one.login:
            text.append(_theirs(directory, name, one.login))
    if ours:
        text.append(
            f"Host {' '.join(ours)}\n"
            f"  User root\n"
            f"  IdentityFile {identity}\n"
            f"  UserKnownHostsFile {known}\n"
            f"  StrictHostKeyChecking yes\n"
            f"  PreferredAuthentications publickey\n"
            f"  KexAlgorithms curve25519-sha256\n"
            f"  HostKeyAlgorithms ssh-ed25519\n"
        )
    text.append(
        f"Host *\n"
        f"  IdentitiesOnly yes\n"
        f"  GlobalKnownHostsFile none\n"
        f"  UpdateHostKeys no\n"
        f"  Compression no\n"
        f"  ConnectTimeout 10\n"
        f"  ServerAliveInterval 15\n"
        f"  ServerAliveCountMax 8\n"
        f"  LogLevel ERROR\n"
        f"  ControlMaster auto\n"
        f"  ControlPath {sockets}/%n\n"
        f"  ControlPersist yes\n"
    )
    config = directory / CONFIG
    atomic.write(config, "".join(text))
    return config


def known_hosts(directory: Path, node: str, login: Login | None) -> Path:
    """Return the file that tells a guest's host key."""
    return directory / (f"{KNOWN_HOSTS}.{node}" if login else KNOWN_HOSTS)


def _theirs(directory: Path, name: str, login: Login) -> str:
    """Return how to log in to a guest that labctl did not configure."""
    lines = [f"User {login.user}", "StrictHostKeyChecking accept-new"]
    lines.append(f"UserKnownHostsFile {known_hosts(directory, name, login)}")
    if login.key:
        lines += [f'IdentityFile "{login.key}"', "PreferredAuthentications publickey"]
        lines.append("BatchMode yes")
    else:
        lines += ["IdentityFile none", "PubkeyAuthentication no", "NumberOfPasswordPrompts 1"]
        lines.append("PreferredAuthentications password,keyboard-interactive")
    return "".join(f"  {line}\n" for line in lines)


def write_way(directory: Path, name: str, words: Sequence[str], destination: str) -> None:
    """Let `command` reach a real host, called `name`, by the user's own SSH configuration and keys.

    `words` are the program and its options.
    """
    folder = directory / WAYS
    folder.mkdir(exist_ok=True, mode=0o700)
    (directory / SOCKETS).mkdir(exist_ok=True, mode=0o700)
    atomic.write(folder / name, json.dumps([*words, destination]))


def _passing_on(words: Sequence[str]) -> str:
    """Return the shell's line that connects to a guest's port through a host."""
    program, *options = (shlex.quote(word).replace("%", "%%") for word in words)
    return " ".join([program, "-W '[%h]:%p'", *options])


def command(
    directory: Path, node: str, *, terminal: bool = False, shared: bool = True
) -> list[str]:
    """Return the words of an ssh(1) call; what follows them runs in the guest, on a `terminal`.

    Not `shared`, it has a connection of its own: slower, but no other session can disturb it.
    """
    way = directory / WAYS / node
    if way.exists():
        *words, destination = json.loads(way.read_text())
        if shared:
            words += ["-S", str(directory / SOCKETS / node)]
            words += ["-o", "ControlMaster=auto", "-o", "ControlPersist=yes"]
    else:
        words, destination = ["ssh", "-F", str(directory / CONFIG)], node
        password = secret_texts.password_file(directory, node)
        if password.exists():
            told = askpass.environment(password)
            words = ["env", *(f"{name}={text}" for name, text in told.items()), *words]
    if not shared:
        words += ["-S", "none"]
    if terminal:
        words.append("-tt")
    return [*words, destination]
