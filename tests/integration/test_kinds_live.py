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
WALL = "blackhole 203.0.113.0/24"
SWITCH = """\
from labctl.lab.lab import Lab

r1 = Lab.attach("wall").router("r1")
show = ["ip", "route", "show", "type", "blackhole"]
assert r1.kind == "walled", r1.kind
assert r1.forwards()
assert r1.counters()
assert r1.run(show).stdout
with r1.as_kind("raw"):
    assert r1.kind == "raw", r1.kind
    assert not r1.run(show).stdout, "the kind has not undone what it did"
assert r1.kind == "walled", r1.kind
assert r1.run(show).stdout
"""


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    packages = tmp_path_factory.mktemp("packages")
    install_example(packages)
    with place(pytestconfig.getoption("--accel")) as where:
        paths = [str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]
        where.env["PYTHONPATH"] = os.pathsep.join(paths)
        yield where


def test_it_forwards_in_a_lab_and_is_told_of(here: Place) -> None:
    shipped = Path(__file__).resolve().parents[2] / "topologies" / "router-hop.yaml"
    text = shipped.read_text()
    assert "kind: namespace" in text
    file = here.write("wall.yaml", text.replace("kind: namespace", f"kind: {KIND}"))
    assert KIND in {one["name"] for one in here.ok("kinds", "--json").json()}
    router = here.ok("schema").json()["$defs"]["Router"]
    assert KIND in router["properties"]["kind"]["enum"]
    here.ok("validate", str(file))

    here.ok("up", str(file), "--name", "wall")
    assert part(here) == (f"router ({KIND})", "running")
    told = here.ok("ssh", "-l", "wall", "vm1", "--", "ssh", "vm2", "hostname").stdout
    assert told == "vm2\n"
    assert WALL in here.ok("exec", "-l", "wall", "r1", "--", "ip", "route").stdout
    with here.python(str(here.write("switch.py", SWITCH))) as running:
        assert running.wait() == 0, running.log.read_text()

    # A lab can be told of, and ended, when the package is gone.
    del here.env["PYTHONPATH"]
    assert part(here)[0] == f"router ({KIND})"
    refused = here.run("validate", str(file))
    assert refused.status == 2
    assert f"there is no kind '{KIND}'" in refused.stderr
    here.ok("down", "wall")
    assert here.ok("status", "--json").json() == []


def part(here: Place) -> tuple[str, str]:
    """Return what `labctl status` says of the router."""
    (lab,) = here.ok("status", "--json").json()
    return next((one["is"], one["state"]) for one in lab["parts"] if one["name"] == "r1")
