"""What a guest that boots a disk is told of its lab, and what its user adds to that."""

from __future__ import annotations

import io
import json
import stat
import subprocess
from email import message_from_string
from pathlib import Path
from typing import Any

import pycdlib
import pytest

from labctl.errors import UsageError
from labctl.guests import cloud_init, seed, user_file
from labctl.guests.keys import Key
from labctl.topology import TopologyError, serialize
from labctl.topology.loader import load, loads
from labctl.topology.model import Topology, link_local

TEXT = """\
networks:
  a: {subnets: [10.0.1.0/24, fd00:1::/64]}
  b: {subnets: [10.0.2.0/24]}
nodes:
  vm1:
    image: debian
    interfaces:
      - {network: a, addresses: [10.0.1.1/24, fd00:1::1/64], mtu: 1400}
      - {network: b, addresses: [10.0.2.1/24], offload: {guest: {tx: off}}}
    routes:
      - {to: default, via: 10.0.1.254}
      - {to: 10.9.0.0/16, via: 10.0.2.254}
  vm2:
    interfaces:
      - {network: a, addresses: [10.0.1.2/24]}
"""
CONTROL = Key.make()
CLIENTS = {name: Key.make() for name in ("vm1", "vm2")}
HOSTKEYS = {name: Key.make() for name in ("vm1", "vm2")}


def topology(more: str = "") -> Topology:
    return loads(TEXT.replace("    image: debian\n", f"    image: debian\n{more}"), "t.yaml")


def files(made: Topology) -> dict[str, str]:
    return cloud_init.files(made, made.nodes["vm1"], CONTROL, CLIENTS, HOSTKEYS)


def told(made: Topology) -> Any:
    text = files(made)["user-data"]
    assert text.startswith("#cloud-config\n")
    return json.loads(text.partition("\n")[2])


def written(made: Topology) -> dict[str, dict[str, Any]]:
    return {one["path"]: one for one in told(made)["write_files"]}


def test_each_interface_is_known_by_its_mac_and_has_its_addresses_mtu_and_routes() -> None:
    made = topology()
    network = json.loads(files(made)["network-config"])
    assert network["version"] == 2
    one, two = made.nodes["vm1"].interfaces
    eth0, eth1 = network["ethernets"]["eth0"], network["ethernets"]["eth1"]
    assert eth0["match"] == {"macaddress": one.mac}
    assert eth0["set-name"] == "eth0"
    assert eth0["addresses"] == ["10.0.1.1/24", "fd00:1::1/64"]
    assert (eth0["mtu"], eth1["mtu"]) == (1400, 1500)
    assert eth0["routes"] == [{"to": "0.0.0.0/0", "via": "10.0.1.254"}]
    assert eth1["match"] == {"macaddress": two.mac}
    assert eth1["routes"] == [{"to": "10.9.0.0/16", "via": "10.0.2.254"}]


def test_the_management_interface_has_its_link_local_address_and_nothing_else() -> None:
    made = topology()
    found = json.loads(files(made)["network-config"])["ethernets"]["mgmt0"]
    mac = made.nodes["vm1"].mgmt_mac
    assert found["match"] == {"macaddress": mac}
    assert found["addresses"] == [f"{link_local(mac)}/64"]
    assert not {"routes", "gateway4", "gateway6", "nameservers"} & found.keys()
    assert not any(found[key] for key in ("dhcp4", "dhcp6", "accept-ra"))


def test_a_guest_has_its_own_private_keys_and_of_others_public_halves() -> None:
    made = topology()
    everything = "".join(files(made).values())
    config = told(made)
    assert config["ssh_keys"]["ed25519_private"] == HOSTKEYS["vm1"].openssh
    assert written(made)["/root/.ssh/id_ed25519"]["content"] == CLIENTS["vm1"].openssh
    for other in (CONTROL, CLIENTS["vm2"], HOSTKEYS["vm2"]):
        secret = other.openssh.splitlines()[2]
        assert secret not in everything
        assert other.dropbear not in everything
        assert other.public in everything


def test_only_the_control_key_opens_a_guest_over_the_management_network() -> None:
    keys = written(topology())["/root/.ssh/authorized_keys"]["content"].splitlines()
    assert keys[0] == CONTROL.public
    assert [key.split(",")[0] for key in keys[1:]] == ["no-port-forwarding"]


def test_what_holds_secrets_is_for_root_alone() -> None:
    found = written(topology())
    modes = {path: one["permissions"] for path, one in found.items() if path.startswith("/root")}
    assert set(modes.values()) == {"0600"}
    assert found["/etc/hosts"]["content"] == "10.0.1.2 vm2\n"


def test_a_guest_is_another_instance_in_each_lab() -> None:
    one = json.loads(files(topology())["meta-data"])
    other = cloud_init.meta_data(topology().nodes["vm1"], Key.make())
    assert one["local-hostname"] == "vm1"
    assert one["instance-id"] != other["instance-id"]


def test_the_first_command_is_shell_that_looks_at_all_addresses() -> None:
    text = cloud_init.settling(topology().nodes["vm1"])
    subprocess.run(["sh", "-n"], input=text.encode(), check=True)
    assert "ethtool -K eth1 tx-checksumming off" in text
    for words in ("eth0 10.0.1.1/24", "eth0 fd00:1::1/64", "eth1 10.0.2.1/24"):
        assert f"\naddress {words}\n" in text


def test_a_users_mapping_is_merged_lists_behind_labctls() -> None:
    made = topology(
        "    user_data: {packages: [iperf3], hostname: other, write_files: [{path: /x}]}\n"
    )
    config = told(made)
    assert config["packages"] == ["iperf3"]
    assert config["hostname"] == "other"
    assert config["write_files"][-1] == {"path": "/x"}
    assert len(config["write_files"]) == len(told(topology())["write_files"]) + 1
    assert config["ssh_keys"] == told(topology())["ssh_keys"]


@pytest.mark.parametrize("key", ["ssh_keys", "disable_root"])
def test_what_would_lock_labctl_out_is_refused(key: str) -> None:
    made = topology(f"    user_data: {{{key}: {{}}}}\n")
    with pytest.raises(UsageError, match=f"the user_data of vm1 sets '{key}'"):
        files(made)


@pytest.mark.parametrize("value", ["3", "null", "{a: b}"])
def test_nothing_takes_the_place_of_a_list_of_labctls(value: str) -> None:
    made = topology(f"    user_data: {{write_files: {value}}}\n")
    with pytest.raises(UsageError, match="'write_files' of the user_data of vm1 is no list"):
        files(made)


def with_file(tmp_path: Path, content: str) -> Topology:
    (tmp_path / "mine").write_text(content)
    place = tmp_path / "t.yaml"
    place.write_text(TEXT.replace("image: debian\n", "image: debian\n    user_data: mine\n"))
    return load(place)


def test_a_file_of_cloud_config_is_merged(tmp_path: Path) -> None:
    made = with_file(tmp_path, "#cloud-config\nruncmd:\n  - [touch, /x]\n")
    assert told(made)["runcmd"] == [["touch", "/x"]]


def test_a_file_that_is_no_yaml_is_told_with_its_place(tmp_path: Path) -> None:
    made = with_file(tmp_path, "#cloud-config\nruncmd: [\n")
    with pytest.raises(UsageError, match=r"mine:3:1: "):
        files(made)


def test_a_script_is_a_part_of_its_own(tmp_path: Path) -> None:
    made = with_file(tmp_path, "#!/bin/sh\necho hello\n")
    own, script = [
        part
        for part in message_from_string(files(made)["user-data"]).walk()
        if not part.is_multipart()
    ]
    assert own.get_content_type() == "text/cloud-config"
    assert json.loads(str(own.get_payload()).partition("\n")[2])["hostname"] == "vm1"
    assert script.get_payload() == "#!/bin/sh\necho hello\n"


def test_parts_that_a_user_has_put_together_stay_apart(tmp_path: Path) -> None:
    made = with_file(
        tmp_path,
        'Content-Type: multipart/mixed; boundary="x"\n\n--x\nContent-Type: text/x-shellscript\n\n'
        "#!/bin/sh\n--x\nContent-Type: text/cloud-config\n\na: 1\n--x--\n",
    )
    kinds = [
        part.get_content_type() for part in message_from_string(files(made)["user-data"]).walk()
    ]
    assert kinds == [
        "multipart/mixed", "text/cloud-config", "text/x-shellscript", "text/cloud-config",
    ]  # fmt: skip


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    made = with_file(tmp_path, "#" * (user_file.MAX_BYTES + 1))
    with pytest.raises(UsageError, match="more than 1 MiB"):
        files(made)


def test_a_file_that_is_missing_is_told_with_its_place() -> None:
    with pytest.raises(TopologyError) as error:
        topology("    user_data: /nowhere/mine\n")
    assert "t.yaml:7:16: there is no file '/nowhere/mine'" in str(error.value)


def test_only_a_guest_with_cloud_init_has_user_data() -> None:
    with pytest.raises(TopologyError) as error:
        loads("nodes:\n  vm1: {user_data: {a: 1}}\n", "t.yaml")
    assert "t.yaml:2:9: vm1 is a QEMU guest without cloud-init" in str(error.value)


def test_defaults_for_user_data_are_for_those_that_can_have_it() -> None:
    made = loads(
        "defaults: {user_data: {a: 1}}\nnodes:\n  vm1: {}\n  vm2: {image: debian}\n", "t.yaml"
    )
    assert (made.nodes["vm1"].user_data, made.nodes["vm2"].user_data) == ("", '{"a": 1}')


def test_a_record_keeps_user_data_and_says_nothing_of_what_is_not_there() -> None:
    made = topology("    user_data: {a: 1}\n")
    data = serialize.to_json(made)
    assert data["nodes"]["vm1"]["user_data"] == '{"a": 1}'
    assert "user_data" not in data["nodes"]["vm2"]
    assert "user_data_file" not in data["nodes"]["vm1"]
    assert serialize.from_json(data).digest() == made.digest() != topology().digest()


def test_a_seed_is_a_file_system_of_the_label_cidata_for_its_user_alone(tmp_path: Path) -> None:
    place = tmp_path / "seed"
    content = {
        "meta-data": "{}",
        "user-data": "#cloud-config\n" + "x" * 5000,
        "network-config": "é",
    }
    seed.write(place, content)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    # ECMA-119, 8.4.7: the volume identifier of the primary volume descriptor, in sector 16.
    assert place.read_bytes()[16 * 2048 + 40 :][:32] == b"CIDATA".ljust(32)
    image = pycdlib.PyCdlib()
    image.open(str(place))
    for name, text in content.items():
        found = io.BytesIO()
        image.get_file_from_iso_fp(found, rr_path=f"/{name}")
        assert found.getvalue().decode() == text
    image.close()
