"""Guests without perl, python3, tcpdump or ethtool: what observes them, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from live import Place, place

from guest_images import lacking, write_recipe
from labctl.errors import GuestError
from labctl.lab.lab import Lab

pytestmark = pytest.mark.integration

LACKS = {
    "noperl": ("/usr/bin/perl",),
    "nothing": ("/usr/bin/perl", "/usr/bin/tcpdump", "/usr/sbin/ethtool"),
    "noethtool": ("/usr/sbin/ethtool",),
}
NOTHING = "nothing is seen from outside only: it has neither perl, python3 nor tcpdump"


def node(number: int, **more: Any) -> dict[str, Any]:
    return {"interfaces": [{"network": "lan", "addresses": [f"10.0.1.{number}/24"]}], **more}


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        where.env["XDG_CONFIG_HOME"] = str(where.root / "config")
        write_recipe(where.root / "config" / "labctl", "with-python")
        nodes = {"whole": node(1), "python": node(2, image="with-python", memory=192)}
        for number, (name, programs) in enumerate(LACKS.items(), 3):
            initramfs = lacking(where.root / f"{name}.initramfs", *programs)
            nodes[name] = node(number, initramfs=str(initramfs))
        topology = {"name": "tools", "networks": {"lan": {}}, "nodes": nodes}
        where.ok("up", str(where.write("tools.yaml", yaml.safe_dump(topology))))
        yield where


def traced(where: Place, *words: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Trace; return the record, and of the first packet what was known at each hop."""
    record = where.ok("trace", *words, "--json").json()
    steps = record["journeys"][0]["steps"]
    return record, {one["hop"]: f"{one['state']} {one['metadata']}" for one in steps}


def test_python_observes_and_sends_where_there_is_no_perl(here: Place) -> None:
    for words in (("python", "whole", "--tcp", "22"), ("python", "whole", "--udp", "9")):
        record, known = traced(here, *words)
        assert record["well"], record
        assert set(known) == {"python:eth0", "python-eth0", "whole-eth0", "whole:eth0"}
        assert set(known.values()) == {"partial needs_csum"}
        assert record["notes"] == []
    record, _ = traced(here, "whole", "python", "--udp", "9")
    assert record["well"], record


def test_tcpdump_observes_where_there_is_no_other_and_says_nothing_of_metadata(here: Place) -> None:
    record, known = traced(here, "whole", "noperl", "--tcp", "22")
    assert record["well"], record
    assert known["noperl-eth0"] == "partial needs_csum"
    assert known["noperl:eth0"] == "partial untold"
    told = "noperl:eth0 is observed by tcpdump, which does not tell the metadata"
    assert told in record["notes"]
    assert not record["partial"]
    said = here.ok("trace", "whole", "noperl", "--tcp", "22").stdout
    assert "metadata untold" in said
    assert told in " ".join(said.split())


def test_where_nothing_observes_the_tap_is_the_nearest_hop_and_that_is_said(here: Place) -> None:
    record, known = traced(here, "whole", "nothing", "--icmp")
    assert record["well"], record
    assert list(known) == ["whole:eth0", "whole-eth0", "nothing-eth0"]
    assert NOTHING in record["notes"]


def test_what_can_send_nothing_says_so(here: Place) -> None:
    said = here.run("trace", "nothing", "whole", "--tcp", "22")
    assert said.status == 3
    assert "nothing has neither perl nor python3" in " ".join((said.stdout + said.stderr).split())
    # A ping needs no program of labctl's.
    record, known = traced(here, "nothing", "whole", "--icmp")
    assert record["well"], record
    assert list(known) == ["nothing-eth0", "whole-eth0", "whole:eth0"]


@pytest.mark.parametrize("name", ["python", "noethtool"])
def test_offloads_are_told_and_turned_without_ethtool(
    here: Place, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against what a packet shows: the guest completes the sum itself, or leaves it open."""
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(here.root))
    lab = Lab.attach("tools")
    try:
        there = lab.node(name)
        before = there.features()
        assert before["tx-checksumming"].active
        with there.offload({"tx-checksumming": False}) as now:
            assert not now["tx-checksumming"].active
            assert now["rx-checksumming"] == before["rx-checksumming"]
            _, known = traced(here, name, "whole", "--tcp", "22")
            assert set(known.values()) <= {"valid none", "valid data_valid"}, known
        assert there.features() == before
        _, known = traced(here, name, "whole", "--tcp", "22")
        assert set(known.values()) == {"partial needs_csum"}
        with pytest.raises(GuestError, match="neither ethtool, python3 nor perl"):
            lab.node("nothing").features()
    finally:
        lab.close()


def test_experiments_judge_what_is_seen_and_say_what_is_not(here: Place) -> None:
    here.ok("down", "tools")
    topology = yaml.safe_load((here.root / "tools.yaml").read_text())
    for name in ("python", "noethtool"):
        del topology["nodes"][name]
    here.write("tools.yaml", yaml.safe_dump(topology))
    told = here.run("experiment", "effects", "--topology", str(here.root / "tools.yaml"),
                    "--only", "whole to no*/ipv4", "--json")  # fmt: skip
    (made,) = told.json()
    folder = Path(made["path"])
    run = json.loads((folder / "result.json").read_text())
    arms = {arm["name"]: arm for arm in run["arms"] if arm["verdict"] != "skip"}
    assert {name: arm["verdict"] for name, arm in arms.items()} == {
        "whole to noperl/ipv4": "pass",
        "whole to nothing/ipv4": "pass",
    }, run
    checks = {
        name: {one["name"]: one["observed"] for one in arm["checks"]} for name, arm in arms.items()
    }
    syn = checks["whole to noperl/ipv4"]["SYN whole to noperl"]
    assert syn == "so at all 4 hops; the metadata is not told at noperl:eth0"
    assert checks["whole to nothing/ipv4"]["SYN whole to nothing"] == "so at all 3 hops"
    for arm in checks.values():
        assert "has neither perl nor python3" in arm["udp"]
    assert NOTHING in run["notes"]
    assert json.loads((folder / "topology.json").read_text())["nodes"]["nothing"]["tools"] == {
        "programs": [],
        "why_not": "",
    }
    here.ok("report", "last")
