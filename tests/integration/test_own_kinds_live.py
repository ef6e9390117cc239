"""Kinds of another package, one of each sort, in a lab of real guests, through every verb."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from live import Place, place

from outside import install_own_kinds

pytestmark = pytest.mark.integration
TOPOLOGY = """\
networks:
  left:
    segments:
      near: {}
      wire: {kind: veth-chain, options: {length: 2}}
      far: {}
  right: {}
nodes:
  vm1:
    kind: labelled
    interfaces: [{network: left, segment: near, addresses: [10.0.1.1/24]}]
    routes: [{to: default, via: 10.0.1.254}]
  vm2:
    interfaces: [{network: right, addresses: [10.0.2.2/24]}]
    routes: [{to: default, via: 10.0.2.254}]
routers:
  r1:
    kind: udp-loser
    interfaces:
      - {network: left, segment: far, addresses: [10.0.1.254/24]}
      - {network: right, addresses: [10.0.2.254/24]}
"""
HOPS = [
    "vm1:eth0", "vm1-eth0",
    "left-wire-a0", "left-wire-b0", "left-wire-a1", "left-wire-b1",
    "r1-eth0", "r1:eth0", "r1:eth1", "r1-eth1",
    "vm2-eth0", "vm2:eth0",
]  # fmt: skip


EXPERIMENT = """\
from labctl import Effect, check_path, experiment
from labctl.kinds import registry
from own_kinds_package import UdpLoser


@registry.FORWARDERS.register
class Wrong(UdpLoser):
    name = "says-it-keeps"

    def effect_on(self, passing):
        return Effect.KEEPS


@experiment(
    "own",
    topology=TOPOLOGY,
    hypothesis="What is seen is what the elements on the path say of themselves.",
    variants={"router": ["udp-loser", "says-it-keeps"]},
)
def own(trial, arm, case):
    trial.lab.router("r1").set_kind(case["router"])
    check_path(trial, arm, "vm1", "vm2", 4)
"""


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    packages = tmp_path_factory.mktemp("packages")
    install_own_kinds(packages)
    with place(pytestconfig.getoption("--accel")) as where:
        paths = [str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]
        where.env["PYTHONPATH"] = os.pathsep.join(paths)
        file = where.write("own.yaml", TOPOLOGY)
        where.ok("up", str(file), "--name", "own")
        yield where
        where.ok("down", "own")
        assert where.ok("status", "--json").json() == []


def test_their_options_are_checked_at_their_place(here: Place) -> None:
    wrong = here.write("wrong.yaml", TOPOLOGY.replace("length: 2", "length: two"))
    refused = here.run("validate", str(wrong))
    assert refused.status == 2
    assert "wrong.yaml:5:50: length: " in refused.stderr


def test_they_are_listed_and_explained(here: Place) -> None:
    told = {one["name"]: one for one in here.ok("kinds", "--json").json()}
    assert told["veth-chain"]["what"] == "link"
    assert told["udp-loser"]["effect"] == "loses"
    assert told["labelled"]["what"] == "guest"
    assert "A page of its own." in here.ok("kinds", "veth-chain").stdout
    assert "A page of its own." in here.ok("explain", "udp-loser").stdout


def test_their_guest_is_made_and_started_as_it_says(here: Place) -> None:
    for name, labels in (("vm1", ["own_kinds.node=vm1"]), ("vm2", [])):
        words = here.ok("ssh", "-l", "own", name, "--", "cat /proc/cmdline").stdout.split()
        assert [word for word in words if word.startswith("own_kinds")] == labels
    (lab,) = here.ok("status", "--json").json()
    told = {one["name"]: (one["is"], one["state"]) for one in lab["parts"]}
    assert told["vm1"] == ("node (labelled)", "running")
    assert told["vm2"] == ("node", "running")


def test_tcp_passes_them_with_its_metadata_and_every_point_is_seen(here: Place) -> None:
    traced = here.run("trace", "-l", "own", "vm1", "vm2", "--tcp", "22", "--json")
    assert traced.status == 0, traced.stdout + traced.stderr
    packet_traces = traced.json()["journeys"]
    syn = next(one for one in packet_traces if one["kind"] == "SYN")
    assert [step["hop"] for step in syn["steps"]] == HOPS
    assert {(step["state"], step["metadata"]) for step in syn["steps"]} == {
        ("partial", "needs_csum")
    }


def test_their_observer_sees_what_the_packet_sockets_see(here: Place) -> None:
    words = ("vm1", "vm2", "--tcp", "22", "--observer", "packet-ring", "--json")
    traced = here.run("trace", "-l", "own", *words)
    assert traced.status == 0, traced.stdout + traced.stderr
    syn = next(one for one in traced.json()["journeys"] if one["kind"] == "SYN")
    beside = [step["hop"].partition("@")[0] for step in syn["steps"] if "@" in step["hop"]]
    assert beside == HOPS[1:-1]  # it cannot look into guests
    assert {(step["state"], step["metadata"]) for step in syn["steps"]} == {
        ("partial", "needs_csum")
    }


def test_what_is_expected_follows_from_their_effects_and_a_wrong_effect_fails(here: Place) -> None:
    file = here.write("own.py", EXPERIMENT.replace("TOPOLOGY", repr(yaml.safe_load(TOPOLOGY))))
    told = here.run("experiment", str(file), "--json")
    assert told.status == 1, told.stdout + told.stderr
    (made,) = told.json()
    run = json.loads((Path(made["path"]) / "result.json").read_text())
    right, wrong = run["arms"]
    assert right["verdict"] == "pass", right
    failed = {one["name"] for one in wrong["checks"] if one["verdict"] == "fail"}
    assert failed, wrong
    assert all("UDP" in name or name == "udp" or "errors" in name for name in failed), failed
    page = here.root / "own.html"
    here.ok("report", made["path"], "--output", str(page))
    assert "left/near" in page.read_text()
    assert HOPS[4] in page.read_text()


def test_udp_loses_its_metadata_in_the_forwarder_which_is_named_with_its_remedy(
    here: Place,
) -> None:
    told = here.run("diagnose", "-l", "own", "vm1", "vm2", "--udp", "4444", "--prove", "--json")
    assert told.status == 1, told.stdout + told.stderr
    found = told.json()
    assert "router r1 (eth0 to eth1)" in str(found)
    assert "raw-vnet" in str(found)
