"""A forwarder of another package, in a lab of real guests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import Place, place

from outside import install_example

pytestmark = pytest.mark.integration
KIND = "walled"
WALLED = "203.0.113.9"
SWITCH = """\
import sys
from labctl.lab.lab import Lab

lab = Lab.attach("wall")
r1 = lab.router("r1")
assert r1.kind == "walled", r1.kind
assert r1.forwards()
assert "IpForwDatagrams" in r1.counters() or r1.counters()
with r1.as_kind("raw"):
    assert r1.kind == "raw", r1.kind
    print(r1.run(["ip", "route", "show", "type", "blackhole"]).stdout, end="")
assert r1.kind == "walled", r1.kind
"""


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    packages = tmp_path_factory.mktemp("packages")
    install_example(packages)
    with place(pytestconfig.getoption("--accel")) as where:
        paths = [str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]
        where.env["PYTHONPATH"] = os.pathsep.join(paths)
        yield where


def test_it_comes_up_forwards_and_is_told(here: Place) -> None:
    shipped = Path(__file__).resolve().parents[2] / "topologies" / "router-hop.yaml"
    text = shipped.read_text()
    assert "kind: namespace" in text
    file = here.write("wall.yaml", text.replace("kind: namespace", f"kind: {KIND}"))
    assert KIND in {one["name"] for one in here.ok("kinds", "--json").json()}
    router = here.ok("schema").json()["$defs"]["Router"]
    assert KIND in router["properties"]["kind"]["enum"]
    here.ok("validate", str(file))

    here.ok("up", str(file), "--name", "wall")
    (lab,) = here.ok("status", "--json").json()
    parts = {part["name"]: (part["is"], part["state"]) for part in lab["parts"]}
    assert parts["r1"] == (f"router ({KIND})", "running")
    told = here.ok("ssh", "-l", "wall", "vm1", "--", "ssh", "vm2", "hostname").stdout
    assert told == "vm2\n"
    routes = here.ok("exec", "-l", "wall", "r1", "--", "ip", "route").stdout
    assert "blackhole 203.0.113.0/24" in routes
    assert here.run("exec", "-l", "wall", "vm1", "--", "ping", "-c1", "-W1", WALLED).status != 0

    with here.python(str(here.write("switch.py", SWITCH))) as running:
        assert running.wait() == 0, running.log.read_text()
    routes = here.ok("exec", "-l", "wall", "r1", "--", "ip", "route").stdout
    assert "blackhole 203.0.113.0/24" in routes, "it is back after another kind"


def test_its_lab_can_be_told_of_and_ended_without_its_package(here: Place) -> None:
    del here.env["PYTHONPATH"]
    (lab,) = here.ok("status", "--json").json()
    parts = {part["name"]: part["is"] for part in lab["parts"]}
    assert parts["r1"] == f"router ({KIND})"
    refused = here.run("validate", str(here.root / "wall.yaml"))
    assert refused.status == 2
    assert f"there is no kind '{KIND}'" in refused.stderr
    here.ok("down", "wall")
    assert here.ok("status", "--json").json() == []
