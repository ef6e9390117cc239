"""What a guest is told: boot lines, keys, addresses, SSH; what it tells: ethtool."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import struct
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from labctl.errors import GuestError
from labctl.guests import driver, ssh
from labctl.guests.console import tail as console_tail
from labctl.guests.ethtool import parse_device, parse_features
from labctl.guests.keys import Key
from labctl.guests.spec import PEER, boot_lines
from labctl.topology import from_mapping
from labctl.topology.model import link_local

# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mac", "address"),
    [
        ("52:54:00:12:34:56", "fe80::5054:ff:fe12:3456"),
        ("02:00:00:00:00:01", "fe80::ff:fe00:1"),
        ("00:00:00:00:00:00", "fe80::200:ff:fe00:0"),
    ],
)
def test_a_link_local_address_flips_the_universal_bit(mac: str, address: str) -> None:
    assert link_local(mac) == address
    assert ipaddress.ip_address(link_local(mac)).is_link_local


# --- boot lines ---------------------------------------------------------------------------------


def named(name: str) -> Key:
    return Key(f"openssh of {name}", f"public of {name}", f"dropbear of {name}")


CONTROL = named("control")
CLIENTS = {name: named(f"client {name}") for name in ("vm1", "vm2")}
HOSTS = {name: named(f"host {name}") for name in ("vm1", "vm2")}
TWO = from_mapping(
    {
        "name": "two",
        "networks": {"lan": {"mtu": 1400}},
        "nodes": {
            "vm1": {
                "interfaces": [
                    {
                        "network": "lan",
                        "addresses": ["10.0.1.1/24", "fd00:1::1/64"],
                        "offload": {"guest": {"tx": False, "gro": True}},
                    }
                ],
                "routes": [{"to": "default", "via": "10.0.1.2"}],
            },
            "vm2": {"interfaces": [{"network": "lan", "addresses": ["10.0.1.2/24"]}]},
        },
    }
)


def test_boot_lines_hold_one_setting_each() -> None:
    node = TWO.nodes["vm1"]
    eth0 = node.interfaces[0]
    assert boot_lines(TWO, node, CONTROL, CLIENTS, HOSTS).splitlines() == [
        "host vm1",
        "hostkey dropbear of host vm1",
        "clientkey dropbear of client vm1",
        "authorized public of control",
        f"authorized {PEER} public of client vm2",
        f"iface {node.mgmt_mac} mgmt0 1500",
        f"iface {eth0.mac} eth0 1400 10.0.1.1/24 fd00:1::1/64",
        "route 0.0.0.0/0 10.0.1.2",
        "offload eth0 generic-receive-offload on tx-checksumming off",
        "peer 10.0.1.2 vm2",
        "known vm2 public of host vm2",
        "known 10.0.1.2 public of host vm2",
    ]


def test_a_guest_is_given_no_private_key_but_its_own() -> None:
    lines = boot_lines(TWO, TWO.nodes["vm1"], CONTROL, CLIENTS, HOSTS)
    private = re.findall(r"(?:dropbear|openssh) of [a-z]+(?: vm\d)?", lines)
    assert private == ["dropbear of host vm1", "dropbear of client vm1"]


@pytest.mark.parametrize(
    ("connection", "command", "status", "said"),
    [
        ("10.0.1.1 40000 10.0.1.2 22", "echo 'a  *' b", 0, "a  * b\n"),
        ("fd00:1::1 40000 fd00:1::2 22", "false", 1, ""),
        ("10.0.1.1 40000 10.0.1.2 22", "", 0, "a shell\n"),
        ("fe80::1%mgmt0 40000 fe80::2%mgmt0 22", "echo in", 1, ""),
        ("fe80::1 40000 fe80::2 22", "", 1, ""),
    ],
)
def test_a_key_of_a_guest_is_good_for_the_network_under_test(
    connection: str, command: str, status: int, said: str
) -> None:
    """As an SSH server runs it: by the user's shell, with these variables."""
    forced = re.search(r'command="([^"]*)"', PEER)
    assert forced
    env = {"PATH": "/usr/bin:/bin", "SSH_CONNECTION": connection, "HOME": "/nonexistent"}
    if command:
        env["SSH_ORIGINAL_COMMAND"] = command
    done = subprocess.run(
        ["sh", "-c", forced[1]], env=env, input="echo a shell\n", capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (status, said)
    assert ("network under test only" in done.stderr) == ("fe80" in connection)


def test_an_interface_without_addresses_is_brought_up_all_the_same() -> None:
    lan = from_mapping(
        {"networks": {"lan": {}}, "nodes": {"a": {"interfaces": [{"network": "lan"}]}}}
    )
    lines = boot_lines(lan, lan.nodes["a"], CONTROL, {}, {"a": CONTROL}).splitlines()
    assert lines[4] == f"iface {lan.nodes['a'].interfaces[0].mac} eth0 1500"


# --- keys ---------------------------------------------------------------------------------------


def strings(data: bytes) -> list[bytes]:
    """Decode strings of the SSH wire format."""
    found = []
    while data:
        (length,) = struct.unpack(">I", data[:4])
        assert len(data) >= 4 + length
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found


def test_a_key_that_is_shown_is_its_public_half() -> None:
    """As in a traceback, or a failed test of a user's."""
    key = Key.make()
    assert repr(key) == f"Key(public={key.public!r})"


def test_a_key_is_the_same_in_all_its_forms() -> None:
    key = Key.make()
    private = load_ssh_private_key(key.openssh.encode(), None)
    assert isinstance(private, Ed25519PrivateKey)
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    kind, pair = strings(base64.b64decode(key.dropbear))
    assert (kind, len(pair)) == (b"ssh-ed25519", 64)
    seed, public = pair[:32], pair[32:]
    assert public == raw
    again = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    assert again.public_bytes(Encoding.Raw, PublicFormat.Raw) == raw

    loaded = load_ssh_public_key(key.public.encode())
    assert loaded.public_bytes(Encoding.Raw, PublicFormat.Raw) == raw
    assert "\n" not in key.public + key.dropbear


def test_no_two_keys_are_alike() -> None:
    assert Key.make() != Key.make()


# --- ethtool ------------------------------------------------------------------------------------

FEATURES = """\
Features for eth0:
rx-checksumming: on [fixed]
tx-checksumming: off
\ttx-checksum-ipv4: off [fixed]
\ttx-checksum-ip-generic: off
scatter-gather: on
tcp-segmentation-offload: off
\ttx-tcp-segmentation: off [requested on]
\ttx-tcp-mangleid-segmentation: on [requested off]
generic-segmentation-offload: off [requested on]
tx-udp_tnl-csum-segmentation: off [fixed]
netns-local: on [not changeable]
"""


def test_features_tell_what_is_what_cannot_change_and_what_was_asked() -> None:
    found = parse_features(FEATURES)
    assert "Features for eth0" not in found
    assert found["rx-checksumming"].active
    assert found["rx-checksumming"].fixed
    refused = found["tx-tcp-segmentation"]
    assert (refused.active, refused.fixed, refused.requested) == (False, False, True)
    forced = found["tx-tcp-mangleid-segmentation"]
    assert (forced.active, forced.requested) == (True, False)
    plain = found["tx-checksum-ip-generic"]
    assert (plain.active, plain.fixed, plain.requested) == (False, False, False)
    assert found["tx-udp_tnl-csum-segmentation"].fixed
    assert len(found) == 11


@pytest.mark.parametrize("text", ["", "Cannot get device feature names: No such device\n"])
def test_an_ethtool_that_says_nothing_is_an_error(text: str) -> None:
    with pytest.raises(GuestError, match="nothing that can be understood"):
        parse_features(text)


def test_device_bits_are_read_from_the_left() -> None:
    bits = ["0"] * 64
    for bit in (0, 7, 15, 32):
        bits[bit] = "1"
    found = parse_device("".join(bits) + "\n")
    assert [name for name, on in found.items() if on] == ["csum", "guest_tso4", "mrg_rxbuf"]
    assert not found["guest_csum"]


def test_missing_device_bits_are_off() -> None:
    assert not any(parse_device("").values())


# --- SSH ----------------------------------------------------------------------------------------


def test_ssh_takes_the_configuration_and_pins_every_host(tmp_path: Path) -> None:
    client, host = Key.make(), Key.make()
    macs = {"vm1": "52:54:00:12:34:56", "vm2": "52:54:00:12:34:57"}
    hosts = {name: ssh.Host(mac, host.public) for name, mac in macs.items()}
    ssh.write_config(tmp_path, "mgmt", client, hosts)
    words = ssh.command(tmp_path, "vm1")
    asked = subprocess.run(
        [*words[:-1], "-G", "vm1"], capture_output=True, text=True, check=True, env={"HOME": "/"}
    )
    said = dict(line.split(" ", 1) for line in asked.stdout.splitlines() if " " in line)
    # The scope needs one percent sign in the end; ssh prints HostName before it expands it.
    assert said["hostname"].replace("%%", "%") == "fe80::5054:ff:fe12:3456%mgmt"
    assert said["user"] == "root"
    assert said["stricthostkeychecking"] == "true"
    assert said["hostkeyalias"] == "vm1"
    assert said["identitiesonly"] == "yes"
    assert said["controlpath"].startswith(str(tmp_path))
    assert said["userknownhostsfile"] == str(tmp_path / "known_hosts")
    assert (tmp_path / "known_hosts").read_text().splitlines() == [
        f"vm1 {host.public}",
        f"vm2 {host.public}",
    ]
    assert (tmp_path / "id_ed25519").stat().st_mode & 0o777 == 0o600


def test_a_terminal_is_asked_for_only_where_it_is_wanted(tmp_path: Path) -> None:
    assert ssh.command(tmp_path, "vm1")[-1] == "vm1"
    assert "-t" not in ssh.command(tmp_path, "vm1")
    assert "-tt" in ssh.command(tmp_path, "vm1", terminal=True)


# --- consoles -----------------------------------------------------------------------------------


def test_a_consoles_tail_leaves_out_what_is_empty(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\r\n\r\n two  \r\nthree\xff\r\n")
    assert console_tail(log, 2) == "     two\n    three\ufffd"


def test_an_empty_or_missing_console_says_so(tmp_path: Path) -> None:
    assert "stayed empty" in console_tail(tmp_path / "none")


def test_a_cache_that_cannot_be_written_to_only_costs_libvirt_what_it_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    readable = tmp_path / "readable"
    readable.mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    for number, place in enumerate((tmp_path / "file" / "libvirt", readable)):
        root = tmp_path / str(number)
        driver._prepare(root, place)
        assert (root / "etc" / "qemu.conf").exists()
        assert not (root / "cache").is_symlink()


def test_a_feature_that_a_guest_does_not_tell_of_is_no_fault_of_labctl() -> None:
    found = parse_features(FEATURES)
    with pytest.raises(GuestError, match="does not tell of rx-nonsense"):
        found["rx-nonsense"]
    assert found.get("rx-nonsense") is None


def test_features_without_end_are_refused() -> None:
    text = "".join(f"feature-{number}: on\n" for number in range(10_000))
    with pytest.raises(GuestError, match="more than"):
        parse_features(text)
