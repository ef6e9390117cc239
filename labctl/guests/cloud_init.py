"""What a guest's cloud-init is told: meta-data, user-data and network-config of NoCloud.

All three are JSON, which is YAML too, so nothing in them can be mistaken for something else.
cloud-init's own documentation says what each key means: network-config-format-v2.rst and
modules.rst in doc/rtd/reference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from labctl.guests import ethtool, spec, user_file
from labctl.guests.keys import Key
from labctl.topology.model import Interface, Node, Topology, link_local

Document = dict[str, Any]
_SSH = "/root/.ssh"
_FILES = {
    "authorized": (f"{_SSH}/authorized_keys", "0600"),
    "known": (f"{_SSH}/known_hosts", "0600"),
    "peer": ("/etc/hosts", "0644"),
}
"""Where a guest keeps what it knows of others, by the word of the line of `spec.boot_lines`."""
RESULT = "/run/cloud-init/result.json"
"""What cloud-init writes when all its stages are over, with the errors that it met."""
_WAITING = f"""\
error() {{ echo "labctl: error: $*" >&2; exit 1; }}
nic() {{ [ -e "/sys/class/net/$1" ] || error "no NIC became $1, MAC $2"; }}
address() {{ ip -o addr show dev "$1" | grep -qF " $2 " || error "$1 has no address $2"; }}
tentative() {{ cut -d" " -f5- /proc/net/if_inet6 | grep -q "^[4-7c-f]"; }}
n=0
while [ ! -e {RESULT} ] || tentative; do
n=$((n + 1))
[ $n -lt 200 ] || exit 75
sleep 0.2
done"""
STAND_IN = "/usr/local/lib/labctl/ethtool"
_ETHTOOL = (
    "command -v ethtool >/dev/null || ! command -v python3 >/dev/null ||"
    f" {{ mkdir -p /usr/local/sbin && ln -sf {STAND_IN} /usr/local/sbin/ethtool; }}"
)
_NO_ERRORS = (
    f"grep -q '\"errors\": \\[\\]' {RESULT} || error \"cloud-init: $(tr -d '\\n' <{RESULT})\""
)
_QUICK = (
    f"ip -6 route replace fe80::/64 dev {spec.MGMT_INTERFACE} proto kernel metric 256 quickack 1"
    " 2>/dev/null || :"
)
"""As in labctl's own guests: who waits for each answer is not kept waiting (RFC 896)."""


def files(
    topology: Topology,
    node: Node,
    control: Key,
    clients: Mapping[str, Key],
    hostkeys: Mapping[str, Key],
) -> dict[str, str]:
    """Return the files of a node's seed by their names; keys as `spec.boot_lines` has them.

    Raises `UsageError` for user data that cannot be merged.
    """
    own = user_data(topology, node, control, clients, hostkeys)
    return {
        "meta-data": json.dumps(meta_data(node, hostkeys[node.name])),
        "user-data": user_file.merged(own, node),
        "network-config": json.dumps(network_config(node), indent=1),
    }


def meta_data(node: Node, hostkey: Key) -> Document:
    """Return the instance's identity: another one in each lab, so that all is set up anew."""
    digest = hashlib.sha256(hostkey.public.encode()).hexdigest()
    return {"instance-id": f"labctl-{digest[:16]}", "local-hostname": node.name}


def user_data(
    topology: Topology,
    node: Node,
    control: Key,
    clients: Mapping[str, Key],
    hostkeys: Mapping[str, Key],
) -> Document:
    """Return what is set in a guest beside its network.

    root may log in by the control key, over the management network, and by the keys of the other
    guests over the network under test, as in labctl's own images (docs/images.md, Keys).
    """
    text: dict[str, str] = {}
    for line in spec.boot_lines(topology, node, control, clients, hostkeys).splitlines():
        word, _, rest = line.partition(" ")
        if word in _FILES:
            text[word] = text.get(word, "") + rest + "\n"
    hostkey = hostkeys[node.name]
    written: list[Document] = []
    for word, content in text.items():
        path, mode = _FILES[word]
        written.append({"path": path, "permissions": mode, "content": content, "append": True})
    written.append({"path": STAND_IN, "permissions": "0755", "content": ethtool.stand_in()})
    if node.name in clients:
        path = f"{_SSH}/id_ed25519"
        content = clients[node.name].openssh
        written.append({"path": path, "permissions": "0600", "content": content})
    return {
        "hostname": node.name,
        "preserve_hostname": False,
        "disable_root": False,
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": hostkey.openssh,
            "ed25519_public": f"{hostkey.public} {node.name}\n",
        },
        "write_files": written,
    }


def network_config(node: Node) -> Document:
    """Return a node's network, each interface known by its MAC.

    The management interface has its link-local address and nothing else: no route leads there but
    for those who name it, so nothing of a test takes it.
    """
    ethernets = {one.name: _ethernet(node, one) for one in node.interfaces}
    address = f"{link_local(node.mgmt_mac)}/64"
    ethernets[spec.MGMT_INTERFACE] = _named(spec.MGMT_INTERFACE, node.mgmt_mac, [address])
    return {"version": 2, "ethernets": ethernets}


def _ethernet(node: Node, interface: Interface) -> Document:
    found = _named(interface.name, interface.mac, [str(one) for one in interface.addresses])
    found["mtu"] = interface.mtu
    routes = [
        {"to": str(route.to), "via": str(route.via)}
        for route in node.routes
        if any(route.via in address.network for address in interface.addresses)
    ]
    return {**found, **({"routes": routes} if routes else {})}


def _named(name: str, mac: str, addresses: list[str]) -> Document:
    found: Document = {
        "match": {"macaddress": mac},
        "set-name": name,
        "dhcp4": False,
        "dhcp6": False,
        "accept-ra": False,
    }
    return {**found, **({"addresses": addresses} if addresses else {})}


def settling(node: Node) -> str:
    """Return the shell text with which a guest's first command begins.

    It ends when cloud-init has ended and every address can be used, that is when IPv6 has looked
    whether another one has it (proc(5), /proc/net/if_inet6: the flag IFA_F_TENTATIVE, 0x40). What
    is not as the topology wants it is told as `labctl: error:`. It gives up after a while, so that
    a command whose SSH is gone does not stay.
    """
    lines = [_WAITING, _ETHTOOL]
    if node.user_data or node.user_data_file:
        lines.append(_NO_ERRORS)
    for one in node.interfaces:
        lines.append(f"nic {one.name} {one.mac}")
        lines += [f"address {one.name} {address}" for address in one.addresses]
    lines.append(_QUICK)
    for line in spec.setting_lines(node):
        word, _, rest = line.partition(" ")
        if word == "offload":
            lines.append(f"ethtool -K {rest} >/dev/null || error offload {rest}")
    return "\n".join(lines)
