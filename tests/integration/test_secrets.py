"""Keys of a running lab: who can read them, what each opens, and the modes of all files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import SOLO, STORY, Place, place

from labctl.backends.state import State
from labctl.lab import state
from labctl.sandbox import owned
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import run
from labctl.topology.model import MGMT_BRIDGE, link_local

pytestmark = pytest.mark.integration

READABLE = stat.S_IRGRP | stat.S_IROTH


@pytest.fixture(scope="module")
def pair(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        where.env["XDG_STATE_HOME"] = str(where.root / "state")
        del where.env["LABCTL_RESULTS"]
        where.ok("up", "bridged.yaml", "--name", "pair")
        yield where


@pytest.fixture
def known(pair: Place) -> State:
    return state.load(pair.runtime / "pair")


def secrets(known: State) -> list[bytes]:
    """Return the private parts of all keys, as far as they differ from anything else."""
    everyone = [known.client, *known.clients.values(), *known.hostkeys.values()]
    found = [key.dropbear.encode() for key in everyone]
    return found + [key.openssh.splitlines()[2].encode() for key in everyone]


def test_no_key_stands_on_a_command_line(known: State) -> None:
    lines = b""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            lines += (process / "cmdline").read_bytes()
        except OSError:
            continue
    assert b"guest=vm1" in lines
    assert not [key for key in secrets(known) if key in lines]


def test_what_holds_a_key_is_for_its_owner_alone(pair: Place, known: State) -> None:
    keys = secrets(known)
    assert holders(pair.root, keys) == {"lab.state", "id_ed25519"}
    for command in (["logs", "vm1"], ["status", "--json"]):
        said = pair.ok(command[0], *(["-l", "pair"] if command[0] == "logs" else []), *command[1:])
        assert not [key for key in keys if key in said.stdout.encode()]


def holders(root: Path, keys: list[bytes]) -> set[str]:
    """Return the names of files below a folder that hold a key; nobody else may read them."""
    holds = set()
    for file in root.rglob("*"):
        if not file.is_symlink() and file.is_file():
            data = file.read_bytes()
            if any(key in data for key in keys):
                holds.add(file.name)
                assert not file.stat().st_mode & READABLE, file
    return holds


def test_a_guest_that_boots_has_its_keys_in_its_initramfs(pytestconfig: pytest.Config) -> None:
    with place(pytestconfig.getoption("--accel")) as where:
        where.write("solo.yaml", SOLO)
        where.ok("up", "solo.yaml", "--cold")
        keys = secrets(state.load(where.runtime / "solo"))
        assert holders(where.root, keys) == {"lab.state", "id_ed25519", "vm1.initramfs"}
        assert stat.S_IMODE((where.runtime / "solo" / "boot").stat().st_mode) == 0o700
        where.ok("down", "solo")


def test_modes_are_as_they_should_be(pair: Place) -> None:
    """Others may pass through the runtime folder, by name, and see nothing of what is in it."""
    assert stat.S_IMODE(pair.runtime.stat().st_mode) == 0o711
    lab = pair.runtime / "pair"
    assert owned.is_made(lab)
    assert stat.S_IMODE(lab.stat().st_mode) == 0o700
    for name in (".lock", "pair/lab.state", "pair/id_ed25519", "pair/ssh_config",
                 "pair/known_hosts", "pair/world.json"):  # fmt: skip
        assert stat.S_IMODE((pair.runtime / name).stat().st_mode) == 0o600, name
    for name in ("console", "c"):
        assert stat.S_IMODE((lab / name).stat().st_mode) == 0o700, name
    # What libvirt makes for itself is behind the lab's own folder.
    ours = [file for file in pair.root.rglob("*") if "embed" not in file.parts]
    writable = [
        file
        for file in ours
        if not (file.is_symlink() or file.is_socket()) and file.stat().st_mode & 0o022
    ]
    assert writable == []


def test_what_is_kept_can_be_written_by_its_owner_alone(pair: Place) -> None:
    """Whatever the umask: images and records are trusted by who could have written them."""
    pair.env["XDG_CACHE_HOME"] = str(pair.root / "cache")
    pair.write("solo.yaml", SOLO)
    pair.write("story.py", STORY)
    before = os.umask(0)
    try:
        pair.ok("experiment", "story.py")
    finally:
        os.umask(before)
        del pair.env["XDG_CACHE_HOME"]
    made = [*(pair.root / "cache").rglob("*"), *(pair.root / "state").rglob("*")]
    names = {file.name for file in made}
    assert {"kernel", "image.json", "result.json", "junit.xml"} <= names
    assert [file for file in made if file.lstat().st_mode & 0o022 and not file.is_symlink()] == []
    for folder in ("cache/labctl", "state/labctl"):
        assert stat.S_IMODE((pair.root / folder).stat().st_mode) == 0o700


def test_a_guest_knows_its_own_key_only(pair: Place, known: State) -> None:
    keys = "/etc/dropbear/hostkey /root/.ssh/id_dropbear"
    line = f"cat /run/labctl.conf; for i in {keys}; do base64 $i | tr -d '\\n'; echo; done; "
    found = pair.ok("ssh", "-l", "pair", "vm1", f"{line}stat -c %a /run/labctl.conf {keys}").stdout
    assert found.split()[-3:] == ["600", "600", "600"]
    mine = {known.clients["vm1"].dropbear, known.hostkeys["vm1"].dropbear}
    private = {
        key.dropbear
        for key in (known.client, *known.clients.values(), *known.hostkeys.values())
        if key.dropbear in found
    }
    assert private == mine
    assert known.client.openssh.splitlines()[2] not in found


def test_a_guests_key_opens_the_network_under_test_and_no_management_network(
    pair: Place, known: State, tmp_path: Path
) -> None:
    told = pair.ok("ssh", "-l", "pair", "vm1", "--", "ssh", "vm2", "uname", "-n").stdout
    assert told == "vm2\n"
    words = "printf '%s|' 'a  *' b; cat"
    told = pair.ok("ssh", "-l", "pair", "vm1", f'echo in | ssh 10.0.1.2 "{words}"').stdout
    assert told == "a  *|b|in\n"
    # From a guest, nobody is there.
    vm2 = link_local(known.topology.nodes["vm2"].mgmt_mac)
    assert pair.run("ssh", "-l", "pair", "vm1", f"ping -6 -c 2 -w 3 {vm2}%mgmt0").status != 0
    # Where somebody else reaches it, with that very key.
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text(known.clients["vm1"].openssh)
    sandbox = state.attach(pair.runtime / "pair")
    options = ["-F", "none", "-i", str(key), "-o", "UserKnownHostsFile=/dev/null"]
    options += ["-o", "StrictHostKeyChecking=no", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
    argv = [*sandbox.enter(), "ssh", *options, f"root@{vm2}%{MGMT_BRIDGE}", "uname", "-n"]
    done = run(argv, deadline=Deadline(60, "logging in"), check=False)
    assert (done.status, done.stdout) == (1, ""), done.stderr
    assert "network under test only" in done.stderr
    argv = [*sandbox.enter(), "ssh", *options, "-W", "127.0.0.1:22", f"root@{vm2}%{MGMT_BRIDGE}"]
    done = run(argv, deadline=Deadline(60, "passing through"), check=False, stdin=b"x\n")
    assert "SSH-2.0" not in done.stdout
