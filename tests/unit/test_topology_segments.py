"""Networks of several segments: what may be written, what is planned, the paths through them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import jsonschema
import pytest
import yaml

from labctl.kinds import registry
from labctl.kinds.base import LinkPlan, LinkProgram, NoOptions
from labctl.kinds.links import DEFAULT
from labctl.network import links
from labctl.report.chart import of_topology
from labctl.topology import TopologyError, from_mapping, json_schema, loads
from labctl.topology.graph import find_path
from labctl.topology.model import Topology
from labctl.topology.serialize import from_json, to_json
from outside import ROOT
from own_kinds import UserWire, VethChain

CHAIN = """\
networks:
  lan:
    segments:
      west: {}
      wire: {kind: veth-chain, options: {length: 2}}
      east: {kind: bridge}
nodes:
  vm1: {interfaces: [{network: lan, segment: west}]}
  vm2: {interfaces: [{network: lan, segment: east}]}
"""
DIGEST = "e9e59d4b0c53da698e2e652a2e8a2fbb20fbda1c231ef591c54c93420b956bea"
"""Of PLAIN, before networks had kinds."""
PLAIN = """\
networks: {lan: {}}
nodes: {vm1: {interfaces: [{network: lan}]}, vm2: {interfaces: [{network: lan}]}}
"""


@pytest.fixture(autouse=True)
def _chain() -> Iterator[None]:
    with registry.registered(VethChain):
        yield


def problems(text: str) -> list[str]:
    with pytest.raises(TopologyError) as found:
        loads(text, "mine.yaml")
    return [str(one) for one in found.value.problems]


def points(topology: Topology, source: str = "vm1", destination: str = "vm2") -> list[str]:
    return [point.name for point in find_path(topology, source, destination).points]


def test_a_wire_contributes_its_points_in_the_order_of_the_packet() -> None:
    lab = loads(CHAIN, "mine.yaml")
    middle = ["lan-wire-a0", "lan-wire-b0", "lan-wire-a1", "lan-wire-b1"]
    there = ["vm1:eth0", "vm1-eth0", *middle, "vm2-eth0", "vm2:eth0"]
    assert points(lab) == there
    assert points(lab, "vm2", "vm1") == there[::-1]


def test_guests_of_one_segment_are_not_led_over_the_wire() -> None:
    lab = loads(CHAIN.replace("segment: east", "segment: west"), "mine.yaml")
    assert points(lab) == ["vm1:eth0", "vm1-eth0", "vm2-eth0", "vm2:eth0"]


def test_each_interface_is_a_port_of_its_own_segment() -> None:
    lab = loads(CHAIN, "mine.yaml")
    assert lab.bridges(lab.nodes["vm1"]) == {"eth0": "lan-west"}
    assert lab.bridges(lab.nodes["vm2"]) == {"eth0": "lan-east"}
    assert lab.networks["lan"].bridge == "lan-west"
    made = ["lan-west", "lan-wire-m0", "lan-wire-a0", "lan-wire-b0", "lan-wire-a1", "lan-wire-b1"]
    assert [*lab.networks["lan"].links()] == [*made, "lan-east"]
    assert set(lab.networks["lan"].links()) < set(links.names(lab))


def test_a_plain_bridge_is_what_it_was_with_or_without_its_kind() -> None:
    plain = loads(PLAIN, "mine.yaml")
    said = loads(PLAIN.replace("lan: {}", "lan: {kind: bridge}"), "mine.yaml")
    assert said == plain
    assert plain.networks["lan"].segments == ()
    assert plain.digest() == DIGEST


def test_what_a_topology_says_of_segments_changes_its_digest() -> None:
    lab = loads(CHAIN, "mine.yaml")
    longer = loads(CHAIN.replace("length: 2", "length: 3"), "mine.yaml")
    assert lab.digest() != longer.digest()


def test_a_record_keeps_the_path_without_the_kind() -> None:
    lab = loads(CHAIN, "mine.yaml")
    registry.LINKS.unregister(VethChain.name)
    assert points(from_json(to_json(lab))) == points(lab)


def test_links_have_short_names_however_long_those_of_network_and_segment_are() -> None:
    text = CHAIN.replace("lan", "a-long-network1").replace("wire", "a-long-segment1")
    lab = loads(text, "mine.yaml")
    names = lab.networks["a-long-network1"].links()
    assert len(set(names)) == len(names)
    assert all(len(name) <= 15 for name in names)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (", options: {length: 2}", "", "5:7: the kind veth-chain needs the option 'length'"),
        ("length: 2", "length: x", "5:50: length: Input should be a valid integer"),
        ("length: 2", "length: 12", "5:41: the options of veth-chain: length 12 is not 1 to 9"),
        ("length: 2", "lenght: 2", "5:42: unknown option 'lenght' (did you mean length?)"),
        ("length: 2", "length: 2, colour: blue", "5:61: there is no colour 'blue'"),
        ("veth-chain", "veth-chian", "5:20: there is no kind 'veth-chian' (did you mean"),
        ("kind: bridge", "kind: bridge, options: {x: 1}", "6:38: unknown option 'x'"),
        ("segment: east", "segment: esat", "9:46: network lan has no segment 'esat'"),
        ("segment: east", "segment: wire", "9:46: wire is a wire, nothing can be plugged into it"),
        (", segment: east", "", "9:32: network lan has several segments, and this names none"),
        ("      east: {kind: bridge}\n", "", "5:7: the wire wire has nothing to join at one end"),
        ("      wire: {kind: veth-chain, options: {length: 2}}\n", "",
         "5:7: nothing joins the segments west and east (put a wire between them"),
        ("    segments:", "    kind: bridge\n    segments:", "3:5: lan has segments, and kind"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_its_place(before: str, after: str, told: str) -> None:
    assert before in CHAIN
    found = problems(CHAIN.replace(before, after))
    assert any(told in one for one in found), found


def test_a_wire_alone_is_no_network() -> None:
    (found,) = problems(PLAIN.replace("lan: {}", "lan: {kind: veth}"))
    assert "the kind veth joins segments, and lan has no others" in found


def test_a_segment_is_no_word_for_a_plain_bridge() -> None:
    (found, *_) = problems(PLAIN.replace("{network: lan}", "{network: lan, segment: west}"))
    assert "network lan has no segments" in found


def test_on_a_xen_host_a_network_is_one_bridge() -> None:
    text = CHAIN.replace("vm2: {", "vm2: {host: xen1, ") + "  xen1: {hypervisor: xen}\n"
    found = problems(text)
    assert any("network lan is on the Xen host xen1, and no bridge" in one for one in found), found


def test_the_schema_completes_kinds_and_their_options() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.validate(yaml.safe_load(CHAIN))
    for wrong in ("{length: x}", "{}", "{length: 2, colour: blue}", "{length: 2, more: 1}"):
        told = yaml.safe_load(CHAIN.replace("{length: 2}", wrong))
        assert list(validator.iter_errors(told)), wrong
    (rule,) = [
        one["then"]["properties"]["options"]
        for one in json_schema()["$defs"]["Segment"]["allOf"]
        if one["if"]["properties"]["kind"]["const"] == "veth-chain"
    ]
    assert rule["properties"]["length"]["description"] == "How many veth pairs it has, 1 to 9."


def test_a_mapping_may_have_segments_too() -> None:
    assert points(from_mapping(yaml.safe_load(CHAIN))) == points(loads(CHAIN, "mine.yaml"))


def test_the_docs_show_a_kind_that_works_and_what_is_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "kinds.md").read_text()
    _, module = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "a_kind_of_the_docs.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    registry.LINKS.unregister(VethChain.name)
    with registry.registered(import_module("a_kind_of_the_docs").VethChain):
        assert points(loads(CHAIN, "mine.yaml"))[2:6] == [
            "lan-wire-a0", "lan-wire-b0", "lan-wire-a1", "lan-wire-b1"
        ]  # fmt: skip
    table = (ROOT / "docs" / "topology.md").read_text()
    for name in registry.LINKS.shipped:
        kind = registry.link(name)
        default = " (default)" if name == DEFAULT else ""
        assert f"| `{name}`{default} | {kind.summary} | {kind.effect.value} |\n" in table


# --- links that need programs -------------------------------------------------------------------

WIRE = CHAIN.replace("kind: veth-chain, options: {length: 2}", "kind: user-wire")
DIGEST_OF_CHAIN = "ee1ff04eefef585b6a395c03faca981312ea18a996107d6d6c54fb1a88fa53e4"
"""Before plans had programs."""


def test_a_plan_without_programs_has_the_digest_that_it_had() -> None:
    assert loads(CHAIN, "mine.yaml").digest() == DIGEST_OF_CHAIN


def test_a_record_keeps_the_programs_without_the_kind() -> None:
    with registry.registered(UserWire):
        lab = loads(WIRE, "mine.yaml")
    assert from_json(to_json(lab)) == replace(lab, source=None)
    assert points(lab)[2:6] == ["lan-wire-a", "lan-wire-p", "lan-wire-q", "lan-wire-b"]
    (program,) = lab.networks["lan"].segments[1].plan.programs
    assert (program.name, program.options) == (
        "lan-wire-sw",
        ("--wire", "lan-wire-p", "lan-wire-q"),
    )
    assert str(ROOT) not in str(to_json(lab)), "no path of this machine"


@pytest.mark.parametrize(
    ("programs", "why"),
    [
        ((LinkProgram("sw", "sh"),), "the program 'sw' does not begin with lan-wire"),
        ((LinkProgram("lan-wire/..", "sh"),), "or is no name"),
        ((LinkProgram("lan-wire", ""),), "says not what it is"),
        ((LinkProgram("lan-wire", "sh", ready=""),), "not when it is ready"),
        ((LinkProgram("lan-wire", "sh"),) * 2, "two programs have the same name"),
    ],
)
def test_programs_that_cannot_be_are_a_fault_of_the_kind(
    programs: tuple[LinkProgram, ...], why: str
) -> None:
    class Faulty(UserWire):
        def plan(self, base: str, options: NoOptions) -> LinkPlan:
            return replace(super().plan(base, options), programs=programs)

    with registry.registered(Faulty):
        found = problems(WIRE)
    assert any(why in one for one in found), found


def test_a_report_draws_each_segment_and_the_wire_between() -> None:
    lab = loads(CHAIN, "mine.yaml")
    drawn = of_topology(lab, find_path(lab, "vm1", "vm2").points)
    assert drawn.row == ("vm1", "net lan/west", "net lan/east", "vm2")
    assert {one.key: one.name for one in drawn.elements}["net lan/west"] == "lan/west"
    (wire,) = [edge for edge in drawn.edges if edge.owner == "net lan/west"]
    assert (wire.network, wire.inside, wire.outside) == (
        "net lan/east", "lan-wire-a0", "lan-wire-b1"
    )  # fmt: skip


def test_a_network_called_as_a_link_of_another_is_refused_wherever_it_stands() -> None:
    for text in (
        CHAIN.replace("networks:\n", "networks:\n  lan-wire-a0: {}\n"),
        CHAIN.replace("nodes:\n", "  lan-wire-a0: {}\nnodes:\n"),
    ):
        found = problems(text)
        assert any("called lan-wire-a0, as one of network lan" in one for one in found), found
