"""The files by which OpenSSH finds the guests of a lab, with their keys."""

from __future__ import annotations

from pathlib import Path

from labctl.backends.base import Backend
from labctl.backends.state import State
from labctl.guests import ssh


def write(directory: Path, backend: Backend, known: State) -> None:
    """Write them into a lab's directory; a lab without machines has none."""
    topology = known.topology
    if not (booted := backend.booted(topology)):
        return
    public = {name: key.public for name, key in known.hostkeys.items()}
    hosts = {
        node.name: ssh.Host(node.mgmt_mac, public[node.name], node.login)
        for node in booted
        if not node.console_only
    }
    ssh.write_config(
        directory, backend.mgmt_bridge(known), known.client, hosts, backend.ssh_through(topology)
    )
