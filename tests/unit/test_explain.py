from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from labctl.cli.explain import explain
from labctl.cli.kinds import kinds
from labctl.errors import UsageError
from labctl.experiments.builtin import BUILTIN
from labctl.experiments.explained import NAMES, find
from labctl.experiments.explained.drawing import draw
from labctl.experiments.explained.functions import FUNCTIONS, named
from labctl.experiments.explained.model import Way
from labctl.experiments.explained.page import WIDTH, lines
from labctl.experiments.explained.resolve import Told, resolve, texts
from labctl.experiments.explained.route import points, route
from labctl.topology import from_mapping, load, shipped
from labctl.topology.graph import find_path
from labctl.topology.model import Topology

STATES = {"partial, needs_csum", "partial, no metadata", "valid"}


def told(name: str) -> Told:
    return resolve(find(name))


def uplinked(model: str = "virtio") -> Topology:
    return from_mapping(
        {
            "name": "uplinked",
            "networks": {"left": None, "right": None},
            "nodes": {
                "xen1": {"hypervisor": "xen", "interfaces": [{"network": "left", "model": model}]},
                "vm1": {"host": "xen1", "interfaces": [{"network": "left"}]},
                "vm3": {"interfaces": [{"network": "right"}]},
            },
            "routers": {"r1": {"interfaces": [{"network": "left"}, {"network": "right"}]}},
        }
    )


def test_every_built_in_experiment_is_explained() -> None:
    assert set(NAMES) == set(BUILTIN)


@pytest.mark.parametrize("name", ["router-hop", "xen-router-hop"])
def test_a_closed_port_is_said_to_answer_only_where_the_syn_gets_through(name: str) -> None:
    page = " ".join(" ".join(lines(told(name))).split())
    assert "a closed port hangs as an open one does, where both guests offload" in page
    assert "Where the SYN gets through (the client alone completes its sums), a closed port" in page


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_every_section_and_fits_its_width(name: str) -> None:
    page = lines(told(name))
    assert page[0].startswith(f"{name}: ")
    assert max(map(len, page)) <= WIDTH
    headings = [line for line in page if line and not line.startswith(" ")][1:]
    assert headings[:5] == [
        "HYPOTHESIS",
        "MECHANISM",
        "TOPOLOGY",
        "HOP BY HOP (Linux 6.1)",
        "WHAT EACH ARM MUST SHOW",
    ]
    assert not any("…" in line for line in page if "│" in line), "something was cut off"


@pytest.mark.parametrize("name", NAMES)
def test_functions_are_named_from_the_list_only(name: str) -> None:
    names = [one for text in texts(find(name)) for one in named(text)]
    assert names
    assert not set(names) - set(FUNCTIONS)


def test_the_list_has_no_function_that_no_explanation_names() -> None:
    used = {one for name in NAMES for text in texts(find(name)) for one in named(text)}
    assert set(FUNCTIONS) == used


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_is_told_in_every_story(name: str) -> None:
    own = find(name)
    for stage in own.stages:
        assert tuple(stage.cells) == own.stories, stage.name


@pytest.mark.parametrize("name", [one for one in NAMES if find(one).other])
def test_two_stories_have_the_same_stages_side_by_side(name: str) -> None:
    own = find(name)
    assert own.stories == ("virtio", "Xen")
    other = find(own.other)
    assert other.other == name
    assert other.stages == own.stages


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_an_experiment_is_explained_in_its_own_words_on_its_own_topology(name: str) -> None:
    found, experiment = told(name), BUILTIN[name]
    assert (found.title, found.hypothesis) == (experiment.summary, experiment.hypothesis)
    own = [way for way in found.ways if way.file == experiment.topology]
    assert own
    assert not [way.problem for way in own if way.problem]


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_every_arm_tells_a_state_for_every_hop_of_its_way(name: str) -> None:
    found = told(name)
    for arm in found.explanation.arms:
        states = found.states(arm)
        way = found.ways[found.explanation.way_of(arm)]
        assert [point for point, _ in states] == way.points, arm.name
        assert {state for _, state in states} <= STATES
        assert arm.ssh in {"works", "hangs"} or arm.name.startswith("gso ")


@pytest.mark.parametrize("name", ["bridged", "router-hop", "offload"])
def test_where_ssh_hangs_the_metadata_is_lost_or_the_answers(name: str) -> None:
    found = told(name)
    for arm in found.explanation.arms:
        lost = "partial, no metadata" in {state for _, state in found.states(arm)}
        assert (arm.ssh == "hangs") == (lost or arm.name == "one guest tx off/raw"), arm.name


@pytest.mark.parametrize("file", [one.stem for one in shipped()])
def test_points_of_a_way_are_the_hops_of_the_path(file: str) -> None:
    topology = load(next(one for one in shipped() if one.stem == file))
    nodes = [node.name for node in topology.nodes.values() if not node.hypervisor]
    source, destination = nodes[0], nodes[-1]
    way = route(topology, Way(source=source, destination=destination))
    path = find_path(topology, source, destination).points
    assert [point.name for point in points(way)] == [hop.name for hop in path]


def test_a_way_out_of_a_xen_host_takes_its_uplink_and_the_router_outside() -> None:
    way = route(uplinked(), Way(source="vm1", destination="vm3"))
    assert [point.name for point in points(way)] == [
        *("vm1:eth0", "vm1-eth0", "xen1:eth0", "xen1-eth0"),
        *("r1-eth0", "r1:eth0", "r1:eth1", "r1-eth1", "vm3-eth0", "vm3:eth0"),
    ]
    assert [part.host for part in way] == ["xen1", "xen1", "", "", "", ""]


def test_the_way_back_is_the_same_one_backwards() -> None:
    there = route(uplinked(), Way(source="vm1", destination="vm3"))
    back = route(uplinked(), Way(source="vm3", destination="vm1"))
    assert [one.name for one in points(back)] == [one.name for one in reversed(points(there))]


def test_two_guests_that_nothing_joins_have_no_way() -> None:
    apart = from_mapping(
        {
            "name": "apart",
            "networks": {"a": None, "b": None},
            "nodes": {
                "vm1": {"interfaces": [{"network": "a"}]},
                "vm2": {"interfaces": [{"network": "b"}]},
            },
        }
    )
    with pytest.raises(UsageError, match="joins vm1 and vm2"):
        route(apart, Way())


@pytest.mark.parametrize("model", ["virtio", "e1000"])
def test_a_drawing_shows_every_point_once_inside_what_holds_it(model: str) -> None:
    way = route(uplinked(model), Way(source="vm1", destination="vm3"))
    drawing = draw(way, 50)
    assert {len(line) for line in drawing} == {50}
    rows = [line.split("●")[1].split()[0] for line in drawing if "●" in line]
    assert rows == [point.name for point in points(way)]
    # What is in the Xen host has the host's sides around it, what is outside has none.
    inside = [line.startswith("│") for line in drawing if "●" in line]
    assert inside == [True] * 3 + [False] * 7
    assert any(model in line for line in drawing)


def test_a_topology_that_is_not_there_is_told_and_the_rest_stays() -> None:
    found = resolve(replace(find("bridged"), ways=(Way("no-such.yaml"), Way())))
    page = "\n".join(lines(found))
    assert "cannot be drawn" in page
    assert "1. the sender's kernel" in page


def test_the_verb_prints_the_page_and_the_same_as_data() -> None:
    page = CliRunner().invoke(explain, ["router-hop"])
    assert page.exit_code == 0
    assert "● r1:eth1" in page.output
    data = json.loads(CliRunner().invoke(explain, ["router-hop", "--json"]).output)
    raw = next(arm for arm in data["arms"] if arm["arm"] == "raw")
    assert raw["states"]["r1:eth0"] == "partial, needs_csum"
    assert raw["states"]["r1:eth1"] == "partial, no metadata"
    stories = data["stages"][0]["stories"]
    assert list(stories) == ["virtio", "Xen"]
    assert stories["virtio"]["seen_at"] == stories["Xen"]["seen_at"] == "vm1:eth0"
    assert {"name": "packet_recvmsg", "file": "net/packet/af_packet.c", "inlined": False} in data[
        "functions"
    ]


def test_the_verb_alone_lists_what_is_explained() -> None:
    output = CliRunner().invoke(explain, []).output
    assert all(name in output for name in NAMES)


@pytest.mark.parametrize(
    ("word", "hint"), [("router_hop", "did you mean router-hop?"), ("qqq", "there are: bridged,")]
)
def test_an_unknown_experiment_is_told_with_the_nearest_and_the_list(word: str, hint: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        find(word)
    assert caught.value.hint.startswith(hint)
    assert "xen-to-virtio" in caught.value.hint


def test_a_kind_is_explained_as_the_verb_for_kinds_does() -> None:
    told = CliRunner().invoke(explain, ["raw-vnet"])
    assert told.exit_code == 0
    assert told.output == CliRunner().invoke(kinds, ["raw-vnet"]).output
    assert "virtio header" in told.output
