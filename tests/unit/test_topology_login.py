"""`login:` and `console:` in a topology: what they may say, and what a digest and a record keep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labctl.errors import UsageError
from labctl.guests import secret_texts, ssh
from labctl.guests.keys import Key
from labctl.topology import load, serialize
from labctl.topology.expected import FINISHED, UNFINISHED, Ends, expect
from labctl.topology.graph import find_path, points_of
from labctl.topology.guest_tools import GuestTools
from labctl.topology.model import Topology

TEXT = """\
networks: {{west: {{}}, east: {{}}}}
nodes:
  vm1: {{interfaces: [{{network: west}}]}}
  r1:
    image: {{file: disk.raw, format: raw}}
    role: router
    interfaces: [{{network: west}}, {{network: east}}]
{more}
  vm2: {{interfaces: [{{network: east}}]}}
"""
CONSOLE = """\
    console:
      - {expect: 'login:', send: admin}
      - {expect: 'Password:', send: {env: R1_WORD}, within: 5}
"""


def loaded(tmp_path: Path, more: str) -> Topology:
    (tmp_path / "disk.raw").touch()
    (tmp_path / "word").write_text("hunter2\nmore\n")
    file = tmp_path / "lab.yaml"
    file.write_text(TEXT.format(more=more))
    return load(file)


def test_a_console_without_a_login_is_all_there_is(tmp_path: Path) -> None:
    topology = loaded(tmp_path, CONSOLE)
    node = topology.nodes["r1"]
    assert node.console_only
    assert not node.is_configured
    assert [one.within for one in node.console] == [300, 5]
    path = find_path(topology, "vm1", "vm2").points
    assert [one.name for one in path] == [
        "vm1:eth0", "vm1-eth0", "r1-eth0", "r1-eth1", "vm2-eth0", "vm2:eth0",
    ]  # fmt: skip
    assert not any(one.startswith("r1:") for one in points_of(topology))
    assert topology.unseen() == ["r1 is seen from outside only: it has a console only"]


def test_a_record_keeps_where_a_secret_is_named_and_reads_back(tmp_path: Path) -> None:
    topology = loaded(tmp_path, CONSOLE)
    data = json.loads(json.dumps(serialize.to_json(topology)))
    again = serialize.from_json(data)
    assert again.nodes["r1"].console == topology.nodes["r1"].console
    assert again.digest() == topology.digest()


def test_where_a_secret_lies_makes_no_other_topology(tmp_path: Path) -> None:
    one = loaded(tmp_path, "    login: {user: root, password: {env: A}}")
    other = loaded(tmp_path, "    login: {user: root, password: {file: word}}")
    by_key = loaded(tmp_path, "    login: {user: root, key: word}")
    without = loaded(tmp_path, "")
    assert one.digest() == other.digest()
    assert len({one.digest(), by_key.digest(), without.digest()}) == 3


def test_secrets_are_read_and_kept_for_the_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = CONSOLE + "    login: {user: root, password: {file: word}}"
    topology = loaded(tmp_path, more)
    monkeypatch.delenv("R1_WORD", raising=False)
    with pytest.raises(UsageError, match="R1_WORD is not set, which the console of r1 needs"):
        secret_texts.read(topology)
    monkeypatch.setenv("R1_WORD", "battery")
    found = secret_texts.read(topology)
    assert set(found.values()) == {"battery", "hunter2"}
    secret_texts.keep(tmp_path, topology, found)
    assert secret_texts.kept(tmp_path) == found
    password = secret_texts.password_file(tmp_path, "r1")
    assert password.read_text() == "hunter2"
    for file in (password.parent, *password.parent.iterdir()):
        assert file.stat().st_mode & 0o077 == 0
    words = ssh.command(tmp_path, "r1")
    assert words[0] == "env"
    assert not any("hunter2" in word for word in words)


@pytest.mark.parametrize("text", ["", "\n", "x" * 2000, "\x1b[2J\n"])
def test_a_file_that_holds_no_secret_is_told(tmp_path: Path, text: str) -> None:
    topology = loaded(tmp_path, "    login: {user: root, password: {file: word}}")
    (tmp_path / "word").write_text(text)
    with pytest.raises(UsageError, match="does not hold what the login of r1 needs"):
        secret_texts.read(topology)


def test_ssh_knows_ours_by_their_keys_and_theirs_by_what_they_show_first(tmp_path: Path) -> None:
    topology = loaded(tmp_path, "    login: {user: admin, key: word}")
    key = Key.make()
    hosts = {
        "vm1": ssh.Host("52:54:00:00:00:01", key.public),
        "r1": ssh.Host("52:54:00:00:00:02", key.public, topology.nodes["r1"].login),
    }
    text = ssh.write_config(tmp_path, "mgmt", key, hosts).read_text()
    theirs, ours = text.split("Host vm1\n")[1].partition("Host r1")[2], text.split("Host vm1")[2]
    assert "StrictHostKeyChecking accept-new" in theirs.split("Host vm1")[0]
    assert "User admin" in theirs
    assert "StrictHostKeyChecking yes" in ours
    assert (tmp_path / "known_hosts").read_text() == f"vm1 {key.public}\n"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("    login: {user: root, password: hunter2}", "a password is not written here"),
        ("    login: {user: root}", "neither a password nor a key"),
        ("    login: {user: root, key: none}", "there is no file 'none'"),
        ("    login: telnet", "login is a mapping, or console"),
        ("    console: [{expect: '*'}]", "a text to wait for"),
        ('    console: [{expect: x, send: "a\\nb"}]', "one line of printable text"),
        ("    console: [{expect: x, within: 0}]", "more than 0"),
        ("    console: [{expect: x, send: {}}]", "neither env nor file"),
        ("    login: console\n    user_data: {a: 1}", "no cloud-init is told anything"),
        ("    login: console\n    offload: {guest: {tx: off}}", "does not set offloads in it"),
    ],
)
def test_what_cannot_be_is_told_with_its_place_and_without_the_secret(
    tmp_path: Path, more: str, told: str
) -> None:
    with pytest.raises(UsageError) as raised:
        loaded(tmp_path, more)
    assert told in str(raised.value.message + raised.value.detail)
    assert "hunter2" not in raised.value.message + raised.value.hint + raised.value.detail


def test_a_guest_of_labctls_own_image_has_none(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text("nodes: {vm1: {login: console}}\n")
    with pytest.raises(UsageError, match="labctl is in it anyway"):
        load(tmp_path / "lab.yaml")


def test_a_router_that_nobody_looks_into_may_finish_sums_and_is_not_known_to(
    tmp_path: Path,
) -> None:
    path = find_path(loaded(tmp_path, "    login: console"), "vm1", "vm2")
    left_open = expect(path, "tcp", 4)
    assert list(left_open.states) == [
        "vm1:eth0", "vm1-eth0", "r1-eth0", "r1-eth1", "vm2-eth0", "vm2:eth0",
    ]  # fmt: skip
    assert set(left_open.states.values()) == {UNFINISHED}
    finished = expect(path, "tcp", 4, Ends(finished_by=["r1"]))
    assert [one for one, state in finished.states.items() if state == FINISHED] == [
        "r1-eth1", "vm2-eth0", "vm2:eth0",
    ]  # fmt: skip


def test_of_a_sender_that_nobody_looks_into_the_tap_is_the_first_hop(tmp_path: Path) -> None:
    topology = loaded(tmp_path, "    login: console")
    unseen = topology.with_tools({"vm1": GuestTools()})
    path = find_path(unseen, "vm1", "vm2")
    assert path.points[0].name == "vm1-eth0"
    # Whatever is off at the TAP is of what the host sends to the guest.
    assert expect(path, "tcp", 4, Ends(completing=["vm1-eth0"])).states["vm1-eth0"] == UNFINISHED
    assert expect(path, "tcp", 4, Ends(finished_by=["vm1"])).states["vm1-eth0"] == FINISHED
    assert unseen.digest() == topology.digest()
