"""`up` of a file whose lab is up: what differs is changed, what is the same goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from live import Place, Watch, place, process_of

pytestmark = pytest.mark.integration

FILE = """\
name: conv
networks: {left: , right: }
nodes:
  vm1:
    interfaces: [{network: left, addresses: [10.0.1.1/24]}]
    routes: [{to: default, via: 10.0.1.254}]
  vm2:
    interfaces: [{network: right, addresses: [10.0.2.1/24]}]
    routes: [{to: default, via: 10.0.2.254}]
routers:
  r1:
    interfaces:
      - {network: left, addresses: [10.0.1.254/24]}
      - {network: right, addresses: [10.0.2.254/24]}
"""
MORE = """\
  vm3:
    interfaces: [{network: left, addresses: [10.0.1.3/24]}]
  ns:
    kind: namespace
    interfaces: [{network: left, addresses: [10.0.1.4/24]}]
routers:
"""


@pytest.fixture
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where, Watch(where) as watch:
        where.write("conv.yaml", FILE)
        where.ok("up", "conv.yaml")
        yield where
        where.ok("down", "--all")
        watch.nothing_left()


def qemu(here: Place, node: str) -> int:
    return process_of(here.runtime / "conv", "qemu-system", f"guest={node}")


def lab(here: Place) -> dict[str, Any]:
    (found,) = here.ok("status", "--json").json()
    return dict(found)


def test_a_lab_follows_its_file_there_and_back(here: Place) -> None:
    before = qemu(here, "vm1"), qemu(here, "vm2")
    told = here.ok("up", "conv.yaml").stdout
    assert told == "lab conv is up, and as the file says\n"
    here.write("conv.yaml", FILE.replace("  r1:\n", "  r1:\n    kind: raw-vnet\n")
               .replace("routers:\n", MORE))  # fmt: skip
    words = ["router r1 is made anew (kind)", "node vm3 is added", "node ns is added"]
    assert here.ok("up", "conv.yaml", "--dry-run").stdout.splitlines() == words
    assert {part["name"] for part in lab(here)["parts"]} == {"vm1", "vm2", "r1", "left", "right"}
    done = here.ok("up", "conv.yaml").stdout.splitlines()
    assert done == [*words, "lab conv is up, and as the file says now"]
    assert (qemu(here, "vm1"), qemu(here, "vm2")) == before, "what is the same goes on"
    parts = {part["name"]: part for part in lab(here)["parts"]}
    assert parts["r1"]["is"] == "router (raw-vnet)"
    assert here.ok("exec", "vm1", "--", "ssh", "vm3", "hostname").stdout == "vm3\n"
    assert here.ok("exec", "vm1", "--", "ssh", "vm2", "hostname").stdout == "vm2\n"
    assert here.ok("exec", "vm3", "--", "ping", "-c", "1", "10.0.1.4").status == 0
    here.write("conv.yaml", FILE)
    told = here.ok("up", "conv.yaml", "--json").json()
    assert told["changed"]
    assert told["plan"]["removed"] == {"nodes": ["vm3", "ns"]}
    assert (qemu(here, "vm1"), qemu(here, "vm2")) == before
    assert {part["name"] for part in lab(here)["parts"]} == {"vm1", "vm2", "r1", "left", "right"}
    links = here.ok("exec", "--", "ls", "/sys/class/net").stdout.split()
    assert not [name for name in links if name.startswith(("vm3", "ns"))]
    assert here.ok("exec", "vm1", "--", "ssh", "vm2", "hostname").stdout == "vm2\n"


def test_a_node_with_another_address_is_restarted_and_the_others_find_it(here: Place) -> None:
    before = qemu(here, "vm1")
    here.write("conv.yaml", FILE.replace("10.0.2.1/24", "10.0.2.9/24"))
    told = here.ok("up", "conv.yaml").stdout
    assert "node vm2 is restarted (interfaces)" in told
    assert qemu(here, "vm1") == before
    assert here.ok("exec", "vm1", "--", "ssh", "vm2", "hostname").stdout == "vm2\n"
    assert "10.0.2.9" in here.ok("exec", "vm1", "--", "grep", "vm2", "/etc/hosts").stdout


def test_a_network_with_another_mtu_takes_what_is_plugged_into_it_along(here: Place) -> None:
    here.write("conv.yaml", FILE.replace("left: ,", "left: {mtu: 1300},"))
    told = here.ok("up", "conv.yaml").stdout
    assert "network left is made anew (mtu)" in told
    assert "node vm1 is restarted (interfaces)" in told
    assert "vm2" not in told
    for node in ("vm1", "r1"):
        mtu = here.ok("exec", node, "--", "cat", "/sys/class/net/eth0/mtu").stdout
        assert mtu == "1300\n", node
    assert here.ok("exec", "vm1", "--", "ssh", "vm2", "hostname").stdout == "vm2\n"


def test_what_is_wrong_with_the_file_changes_nothing(here: Place) -> None:
    before = lab(here)
    here.write("conv.yaml", FILE.replace("  vm2:\n", "  vm2:\n    image: no-such-image\n"))
    done = here.run("up", "conv.yaml")
    assert done.status == 2
    assert "no-such-image" in done.stderr
    assert lab(here) == before
    here.write("conv.yaml", FILE)
    done = here.run("up", str(here.write("other.yaml", FILE)))
    assert done.stderr.startswith("labctl: lab conv is up already\n"), "of another file"


def test_a_change_that_is_killed_is_told_and_goes_down(here: Place) -> None:
    here.write("conv.yaml", FILE.replace("  vm2:\n", "  vm2:\n    memory: 160M\n"))
    with here.start("up", "conv.yaml", group=True) as running:
        running.reach("it ends vm2", lambda: running.said("stop vm2"))
        os.killpg(running.child.pid, signal.SIGKILL)
    found = lab(here)
    assert found["state"] == "damaged"
    assert "a change of it broke off" in found["problem"]
    done = here.run("up", "conv.yaml")
    assert (done.status, "labctl down conv" in done.stderr) == (3, True)
    done = here.run("start", "vm2")
    assert "a change broke off" in done.stderr
    here.ok("down", "conv")
    here.ok("up", "conv.yaml")


def test_dry_run_needs_a_lab_that_is_up(here: Place) -> None:
    done = here.run("up", "bridged.yaml", "--dry-run")
    assert (done.status, "no lab of this file is up" in done.stderr) == (2, True)
