"""A topology drawn: every element and address is there, and nothing overlaps."""

from __future__ import annotations

import itertools
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from cli_words import Labctl

from labctl import topology
from labctl.report import graph, graph_svg

pytest_plugins = ["cli_words"]
SVG = "{http://www.w3.org/2000/svg}"
SHIPPED = topology.shipped()
LONG = """\
name: long
networks:
  a-network: {subnets: [10.0.1.0/24, "fd00:1::/64"]}
  b-network: {subnets: [10.0.2.0/24], mtu: 9000}
  c-network: {subnets: [10.0.3.0/24]}
nodes:
  database-server-number-01:
    interfaces:
      - network: c-network
        addresses: [10.0.3.1/24]
      - network: a-network
        addresses: [10.0.1.1/24, "fd00:1::2222:3333:4444:5555/64", 10.0.1.9/24]
  alone: {interfaces: []}
routers:
  r1:
    kind: raw-vnet
    interfaces:
      - {network: a-network, addresses: [10.0.1.254/24]}
      - {network: c-network, addresses: [10.0.3.254/24]}
      - {network: b-network, addresses: [10.0.2.254/24]}
"""


def graphs() -> list[graph.Graph]:
    found = [graph.of(topology.load(path)) for path in SHIPPED]
    return [*found, graph.of(topology.loads(LONG, "long.yaml"))]


@pytest.mark.parametrize("one", graphs(), ids=lambda one: one.name)
def test_every_element_and_address_is_in_every_form(one: graph.Graph) -> None:
    words = {element.name for element in (*one.owners, *one.networks)}
    words |= {address for link in one.links for address in link.addresses}
    for told in (graph.text(one), graph.dot(one), graph.mermaid(one), graph_svg.draw(one)):
        missing = {word for word in words if word not in told}
        assert not missing
    ET.fromstring(graph_svg.draw(one))


@pytest.mark.parametrize("one", graphs(), ids=lambda one: one.name)
def test_no_two_texts_or_boxes_overlap_in_the_drawing(one: graph.Graph) -> None:
    root = ET.fromstring(graph_svg.draw(one))
    texts = []
    for element in root.iter(f"{SVG}text"):
        x, y = float(element.get("x", "")), float(element.get("y", ""))
        texts.append((x, y - 11, x + graph_svg.width_of(element.text or ""), y + 3, element.text))
    boxes = []
    for element in root.iter(f"{SVG}rect"):
        if element.get("class") == "box":
            x, y, w, h = (float(element.get(name, "")) for name in ("x", "y", "width", "height"))
            boxes.append((x, y, x + w, y + h, "box"))
    for some in (texts, boxes):
        for a, b in itertools.combinations(some, 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a[4], b[4])
    width, height = (float(root.get(name, "")) for name in ("width", "height"))
    for one_text in texts:
        assert 0 <= one_text[0] < one_text[2] <= width
        assert 0 <= one_text[1] < one_text[3] <= height


def test_letters_of_east_asia_take_two_places() -> None:
    assert graph_svg.width_of("東京") == graph_svg.width_of("abcd")


def test_a_state_is_told_and_coloured() -> None:
    made = graph.of(topology.loads(LONG, "long.yaml"), {"r1": "ended", "alone": "running"})
    assert "raw-vnet, ended" in graph.text(made)
    drawn = graph_svg.draw(made)
    assert "#cf222e" in drawn
    assert "#1a7f37" in drawn
    assert "#cf222e" not in graph_svg.draw(graph.of(topology.loads(LONG, "long.yaml")))


def test_what_would_end_a_text_is_escaped() -> None:
    evil = graph.Element('a"]\\', "node", '<b>&"', "", (), "")
    made = graph.Graph("n", (evil,), (), ())
    assert '"a\\"]\\\\\\n' in graph.dot(made)
    assert "a#quot;]\\<br>#lt;b#gt;#38;#quot;" in graph.mermaid(made)
    ET.fromstring(graph_svg.draw(made))


@pytest.mark.usefixtures("runtime")
def test_a_file_is_drawn_without_a_lab(labctl: Labctl, tmp_path: Path) -> None:
    told = labctl("graph", "bridged.yaml", "--json")
    found = json.loads(told.out)
    assert [one["name"] for one in found["owners"]] == ["vm1", "vm2"]
    assert {link["network"] for link in found["links"]} == {"lan"}
    drawn = tmp_path / "drawn.svg"
    assert labctl("graph", "bridged.yaml", "-o", str(drawn)).code == 0
    assert drawn.read_text().startswith("<svg")
    assert labctl("graph", "bridged.yaml", "-f", "dot").out.startswith('graph "bridged" {')


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nosuch.yaml",), "nosuch.yaml"),
        (("bridged.yaml", "--lab", "x"), "contradict"),
        (("bridged.yaml", "--json", "-f", "dot"), "contradict"),
        (("bridged.yaml", "-o", "/nosuch/x.svg"), "cannot be written"),
        (("bridged.yaml", "-o", "/nosuch/x.png"), "no drawing is written as .png"),
        ((), "no lab is up"),
    ],
)
def test_wrong_words_are_told_in_one_line_with_what_to_do(
    labctl: Labctl, words: tuple[str, ...], said: str
) -> None:
    told = labctl("graph", *words)
    assert told.code == 2
    what, do = told.err.splitlines()
    assert re.search(said, what)
    assert do.startswith("  ")


def test_a_node_that_nobody_logs_in_to_is_marked() -> None:
    told = graph.of(topology.loads("nodes: {a: {kind: disk, login: console}, b: {}}", "x"))
    assert "(disk, console only)" in graph.text(told)
    assert "console only" in graph.mermaid(told)
    assert "console only" in graph_svg.draw(told)
    assert graph.text(told).count("console only") == 1
