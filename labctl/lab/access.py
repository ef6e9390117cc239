"""What programs outside of a lab need to log in to its guests: OpenSSH's, Ansible, and their kind.

The way is the management network, which is in the lab's namespaces: a ProxyCommand of ssh(1) leads
there. All that is written down stays right when a lab of the same name is brought up again.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labctl import backends
from labctl.errors import UsageError
from labctl.guests import dial, ssh
from labctl.lab import state
from labctl.lab.lab import Lab
from labctl.topology.model import Node, link_local

SSH_PORT = 22


@dataclass(frozen=True)
class Login:
    """How to log in to a guest, as root where labctl has configured it."""

    name: str
    host: str
    """A name that no guest of another lab has."""
    user: str
    identity: str
    """File of the private key; it is the lab's, and goes with it."""
    known_hosts: str
    proxy: tuple[str, ...]
    """The words of the ProxyCommand."""
    passes_descriptor: bool
    """Whether that hands a descriptor out (ProxyUseFdpass); else it is the connection itself."""
    by: str = "publickey"
    """How, by the name that ssh_config(5) has for it; ssh(1) asks whom it serves for a password."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def options(self) -> dict[str, str]:
        """Return the options of ssh_config(5) for it, but those that say where it is."""
        return {
            "HostKeyAlias": self.name,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.known_hosts,
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "PreferredAuthentications": self.by,
            "LogLevel": "ERROR",
            # In a ProxyCommand a percent sign begins a token.
            "ProxyCommand": shlex.join(self.proxy).replace("%", "%%"),
            "ProxyUseFdpass": "yes" if self.passes_descriptor else "no",
        }


def logins(lab: Lab) -> list[Login]:
    """Return how to log in to each guest that the lab has started, in the topology's order."""
    known = state.load(lab.directory)
    backend = backends.of(known.uri)
    through = backend.ssh_through(known.topology)
    words = (sys.executable, "-P", "-m", "labctl", "ssh-proxy", "--lab", lab.name)
    return [
        Login(
            node.name,
            f"{node.name}.{lab.name}",
            node.login.user if node.login else "root",
            str(_identity(lab, node)),
            str(ssh.known_hosts(lab.directory, node.name, node.login)),
            (*words, node.name),
            passes_descriptor=not through,
            by="password" if node.login and node.login.password else "publickey",
        )
        for node in backend.booted(known.topology)
        if not node.console_only
    ]


def _identity(lab: Lab, node: Node) -> Path:
    return node.login.key if node.login and node.login.key else lab.directory / ssh.IDENTITY


def proxy_words(lab: Lab, name: str) -> list[str]:
    """Return the words that connect to a guest's SSH server: what a ProxyCommand becomes.

    Raises `UsageError` for what the lab has not started.
    """
    node = lab.node(name).model
    if not node.guest_kind.is_machine:
        raise UsageError(
            f"{name} is no machine, so the lab has no way in by SSH", f"run: labctl ssh {name}"
        )
    lab.node(name).ssh_argv()  # which says so where nobody logs in
    known = state.load(lab.directory)
    backend = backends.of(known.uri)
    if not backend.boots(node):
        raise UsageError(f"{name} is a real host, not started by labctl", f"by hand: ssh {name}")
    address = f"{link_local(node.mgmt_mac)}%{backend.mgmt_bridge(known)}"
    if through := backend.ssh_through(known.topology):
        words = ssh.command(lab.directory, through, shared=False)
        return lab.sandbox.words([*words[:-1], "-W", f"[{address}]:{SSH_PORT}", words[-1]])
    program = str(Path(dial.__file__))
    return lab.sandbox.words([sys.executable, "-I", "-S", program, address, str(SSH_PORT)])


def ssh_config(found: Sequence[Login]) -> str:
    """Return the text of an ssh_config(5) for guests, by their names and by `NODE.LAB`."""
    text = []
    for one in found:
        told = {"HostName": one.host, "User": one.user, "IdentityFile": one.identity}
        lines = [f"  {key} {value}\n" for key, value in (told | one.options()).items()]
        text.append(f"Host {one.name} {one.host}\n{''.join(lines)}")
    return "\n".join(text)


def inventory(lab: Lab) -> dict[str, Any]:
    """Return an inventory of Ansible's, in the form that its `yaml` plugin reads.

    Groups are the lab, each label as KEY_TEXT, and each kind of guest as kind_NAME.
    """
    found = logins(lab)
    groups: dict[str, dict[str, Any]] = {}
    for one in found:
        node = lab.topology.nodes[one.name]
        kinds = {"kind": node.kind} if node.kind else {}
        names = [f"{key}_{text}" for key, text in (node.labels | kinds).items()]
        for group in (lab.name, *names):
            hosts = groups.setdefault(re.sub(r"\W", "_", group, flags=re.ASCII), {"hosts": {}})
            hosts["hosts"][one.name] = {}
    return {"all": {"hosts": {one.name: _host(one) for one in found}, "children": groups}}


def _host(one: Login) -> dict[str, str]:
    options = " ".join(f"-o {shlex.quote(f'{key}={text}')}" for key, text in one.options().items())
    return {
        "ansible_connection": "ssh",
        "ansible_host": one.host,
        "ansible_user": one.user,
        "ansible_ssh_private_key_file": one.identity,
        "ansible_ssh_common_args": options,
        # By dd(1): small guests have neither sftp nor scp.
        "ansible_ssh_transfer_method": "piped",
    }
