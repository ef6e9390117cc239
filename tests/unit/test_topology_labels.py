"""Labels: what a user may write beside the parts of a lab, and that it changes nothing."""

from __future__ import annotations

import json

import pytest

from labctl.topology import (
    TopologyError,
    find,
    load,
    loads,
    serialize,
    shipped,
)

PLAIN = """
networks: {lan: {}}
nodes: {vm1: {interfaces: [{network: lan, addresses: [10.0.1.1/24, fd00:1::1/64]}]}}
routers: {r1: {interfaces: [{network: lan}, {network: lan}]}}
"""
LABELLED = """
networks: {lan: {labels: {vlan: "7"}}}
nodes:
  vm1:
    labels: {role: client}
    interfaces: [{network: lan, addresses: [10.0.1.1/24, fd00:1::1/64], labels: {speed: "fast"}}]
routers:
  r1:
    labels: {rack: A}
    interfaces: [{network: lan, labels: {side: left}}, {network: lan}]
"""


def test_networks_nodes_routers_and_interfaces_take_labels() -> None:
    model = loads(LABELLED, "x")
    assert model.networks["lan"].labels == {"vlan": "7"}
    assert model.nodes["vm1"].labels == {"role": "client"}
    assert model.nodes["vm1"].interfaces[0].labels == {"speed": "fast"}
    assert model.routers["r1"].labels == {"rack": "A"}
    assert [one.labels for one in model.routers["r1"].interfaces] == [{"side": "left"}, {}]


def test_labels_change_no_digest() -> None:
    assert loads(LABELLED, "x").digest() == loads(PLAIN, "x").digest()
    assert loads(LABELLED, "x") != loads(PLAIN, "x")


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("3", "must be a mapping"),
        ("{a b: x}", "cannot be a label's name"),
        ("{a: 4}", "must be text"),
        ("{a: null}", "must be text"),
        ('{a: "x\\ny"}', "one line of printable text"),
        ("{a: " + "x" * 65 + "}", "at most 64 characters"),
        ("{" + ", ".join(f"a{number}: x" for number in range(17)) + "}", "at most 16"),
    ],
)
def test_a_label_that_does_not_fit_is_refused(written: str, told: str) -> None:
    with pytest.raises(TopologyError, match=told):
        loads(f"networks: {{lan: {{labels: {written}}}}}\nnodes: {{vm1: {{}}}}\n", "x")


def test_defaults_take_no_labels() -> None:
    with pytest.raises(TopologyError, match="labels"):
        loads("defaults: {labels: {a: b}}\nnodes: {vm1: {}}\n", "x")


def test_a_topology_comes_back_from_its_record() -> None:
    for name in shipped():
        model = load(find(str(name)))
        again = serialize.from_json(json.loads(json.dumps(serialize.to_json(model))))
        assert again.digest() == model.digest()
        assert again.nodes == model.nodes
        assert again.source is None
    labelled = loads(LABELLED, "x")
    assert serialize.from_json(json.loads(json.dumps(serialize.to_json(labelled)))) == labelled


def test_a_record_from_before_labels_is_still_read() -> None:
    data = serialize.to_json(loads(PLAIN, "x"))
    del data["nodes"]["vm1"]["labels"]
    assert serialize.from_json(data).nodes["vm1"].labels == {}


@pytest.mark.parametrize("data", [None, [], {}, {"name": 3}, {"name": "x", "nodes": {"a": 1}}])
def test_what_is_no_topology_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        serialize.from_json(data)
