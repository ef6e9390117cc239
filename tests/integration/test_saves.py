"""A whole lab is saved as it runs, and goes on from there; nothing else is taken for a save."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import Place, place, until

pytestmark = pytest.mark.integration

LAB = """\
name: kept
networks:
  left: {subnets: [10.0.1.0/24]}
  right: {subnets: [10.0.2.0/24]}
nodes:
  vm1:
    interfaces: [{network: left, addresses: [10.0.1.1/24], offload: {tap: {tx: off}}}]
    routes: [{to: default, via: 10.0.1.254}]
  vm2:
    clone: false
    interfaces: [{network: right, addresses: [10.0.2.1/24]}, {network: left}]
    routes: [{to: default, via: 10.0.2.254}]
  peer:
    kind: namespace
    interfaces: [{network: left, addresses: [10.0.1.9/24]}]
    exec: [touch /tmp/given]
routers:
  r1:
    kind: raw-vnet
    interfaces:
      - {network: left, addresses: [10.0.1.254/24]}
      - {network: right, addresses: [10.0.2.254/24]}
"""
COUNTER = "(i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done) >/tmp/count 2>&1 </dev/null &"
LISTENER = "(sleep 100000 | nc -l -p 7000 >/tmp/heard 2>&1) </dev/null >/dev/null 2>&1 &"
SPEAKER = "(while :; do echo word; sleep 0.2; done | nc 10.0.1.1 7000) </dev/null >/dev/null 2>&1 &"


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        where.env["XDG_STATE_HOME"] = str(where.root / "state")
        (where.root / "state").mkdir(mode=0o700)
        where.write("kept.yaml", LAB)
        where.ok("up", "kept.yaml")
        yield where


def lines(here: Place, node: str, file: str) -> int:
    said = here.ok("exec", node, "--", "wc", "-l", file).stdout
    return int(said.split()[0])


def parts(here: Place) -> dict[str, Any]:
    (lab,) = here.ok("status", "--json").json()
    return {part["name"]: part for part in lab["parts"]}


def folder(here: Place, name: str = "") -> Path:
    return here.root / "state/labctl/saves" / name


def test_a_lab_goes_on_from_where_it_was_saved(here: Place) -> None:
    here.ok("exec", "vm1", "--", "sh", "-c", COUNTER)
    here.ok("exec", "vm1", "--", "sh", "-c", LISTENER)
    here.ok("exec", "vm2", "--", "sh", "-c", SPEAKER)
    until("the connection is there", lambda: lines(here, "vm1", "/tmp/heard") > 1)
    here.ok("link", "vm2:eth1", "down")
    keys = here.ok("exec", "vm1", "--", "cat", "/root/.ssh/authorized_keys").stdout
    told = here.ok("save", "one", "--json").json()
    assert (told["name"], told["lab"], told["guests"]) == ("one", "kept", ["vm1", "vm2"])
    (note,) = told["notes"]
    assert note == "peer: not saved; what runs there starts anew when restored"
    assert {oct(one.stat().st_mode & 0o777) for one in folder(here, "one").iterdir()} == {"0o600"}
    assert oct(folder(here, "one").stat().st_mode & 0o777) == "0o700"

    saved = lines(here, "vm1", "/tmp/count")
    until("it went on", lambda: lines(here, "vm1", "/tmp/count") > saved)
    here.ok("down")
    here.ok("restore", "one")
    counted, heard = (lines(here, "vm1", f"/tmp/{one}") for one in ("count", "heard"))
    assert counted > 1, "it is the process that was saved"
    until("it goes on", lambda: lines(here, "vm1", "/tmp/count") > counted)
    until("the connection goes on", lambda: lines(here, "vm1", "/tmp/heard") > heard)
    numbers = here.ok("exec", "vm1", "--", "cat", "/tmp/count").stdout.split()
    assert numbers == [str(one + 1) for one in range(len(numbers))], "none was left out"
    assert here.ok("exec", "vm1", "--", "cat", "/root/.ssh/authorized_keys").stdout == keys
    found = parts(here)
    assert {name: one["state"] for name, one in found.items() if one["state"]} == dict.fromkeys(
        ("vm1", "vm2", "peer", "r1"), "running"
    )
    assert found["r1"]["is"] == "router (raw-vnet)"
    assert found["vm2"]["links_down"] == ["eth1"]
    assert here.run("exec", "vm2", "--", "cat", "/sys/class/net/eth1/carrier").stdout == "0\n"
    here.ok("exec", "peer", "--", "test", "-e", "/tmp/given")
    assert here.ok("ssh", "vm1", "--", "ssh", "vm2", "hostname").stdout == "vm2\n"
    assert (
        here.ok("up", "kept.yaml", "--dry-run").stdout == "lab kept is up, and as the file says\n"
    )


def test_what_is_no_save_of_this_user_is_refused_and_can_be_removed(here: Place) -> None:
    if not folder(here, "one").exists():
        here.ok("save", "one")
    notes = json.loads((folder(here, "one") / "lab.json").read_text())
    assert notes["labctl"] == "lab.json"
    state = folder(here, "one") / "vm1.state"
    with state.open("r+b") as file:
        file.seek(1 << 20)
        octet = file.read(1)
        file.seek(1 << 20)
        file.write(bytes([octet[0] ^ 1]))
    done = here.run("restore", "one", "--name", "other")
    assert (done.status, done.stderr) == (
        3,
        "labctl: the saved lab one cannot be used: vm1.state is not what was saved\n"
        "  remove it: labctl saves rm one\n",
    )
    assert here.lab_files() == ["kept"], "nothing was begun"
    folder(here, "one").rename(folder(here, "moved"))
    assert "was not made here by labctl" in here.run("restore", "moved").stderr
    assert here.run("saves", "rm", "moved").status == 3, "it is not ours any more"
    folder(here, "moved").rename(folder(here, "one"))
    assert here.ok("saves", "rm", "one", "--json").json() == {"removed": ["one"]}
    assert here.ok("saves", "list", "--json").json() == []


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_save_that_is_cut_short_is_none_and_the_guests_go_on(
    here: Place, end: signal.Signals
) -> None:
    with here.start("save", "two") as saving:
        saving.reach("the first guest is being saved", lambda: saving.said("save vm1"))
        os.kill(saving.child.pid, end)
        saving.wait()
    assert not folder(here, "two").exists()
    assert here.ok("saves", "--json").json() == []
    if end is signal.SIGKILL:  # nobody was left to let them go on
        here.ok("start", "vm1", "vm2")
    for name in ("vm1", "vm2"):
        here.ok("exec", name, "--", "true")
    here.ok("save", "two")
    here.ok("saves", "rm", "two")
    left = [one.name for one in folder(here).iterdir() if one.is_dir()]
    assert left == [], "what was killed is removed by the next"
