"""The parts of a report: evidence read back, drawings, sentences."""

from __future__ import annotations

import contextlib
import itertools
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from labctl.capture import pcapng
from labctl.capture.pcapng import PcapngError
from labctl.capture.session import Evidence, HopEvidence
from labctl.errors import UsageError
from labctl.lab.hop_locations import hop_locations
from labctl.packet.checksum import Checksum, Metadata
from labctl.report import chart, drawing, recorded
from labctl.report.drawing import BOX, Shape
from labctl.topology import Topology, find, load, loads, shipped
from labctl.topology.graph import find_path
from labctl.topology.points import ObservationPoint, inside_guest
from report_records import FLAG, HOPS, LOST, seen


def test_evidence_comes_back_from_a_capture_as_it_was_judged(tmp_path: Path) -> None:
    before = seen([FLAG] * 4 + [LOST] * 3 + [None])
    file = tmp_path / "x.pcapng"
    pcapng.write(file, before)
    after = pcapng.read(file)
    assert [hop.hop for hop in after.hops] == list(HOPS)
    for old, new in zip(before, after.hops, strict=True):
        assert [s.judgement for s in old.observations] == [s.judgement for s in new.observations]
        assert [(s.time_ns, s.direction) for s in old.observations] == [
            (s.time_ns, s.direction) for s in new.observations
        ]
        assert new.complete
    first = after["vm1:eth0"].observations[0].judgement
    assert (first.state, first.metadata) == (Checksum.PARTIAL, Metadata.NEEDS_CSUM)
    assert after["r1:eth1"].observations[0].judgement.lost


def test_a_cut_hop_comes_back_as_a_cut_one(tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    pcapng.write(file, seen([FLAG] * 8, cut="r1:eth0"))
    after = pcapng.read(file)
    assert [hop.hop for hop in after.hops if not hop.complete] == ["r1:eth0"]
    assert "within a block" in after["r1:eth0"].note


@pytest.mark.parametrize(("drops", "errors"), [(0, 0), (3, 0), (0, 2)])
def test_what_an_observer_missed_comes_back(tmp_path: Path, drops: int, errors: int) -> None:
    file = tmp_path / "x.pcapng"
    first, *others = seen([FLAG] * 8)
    assert first.trailer is not None
    before = replace(first, trailer=replace(first.trailer, drops=drops, errors=errors))
    pcapng.write(file, [before, *others])
    after = pcapng.read(file).hops[0]
    assert after.trailer is not None
    assert (after.trailer.drops, after.trailer.errors) == (drops, errors)
    assert after.complete is before.complete


def test_an_older_record_tells_of_no_receive_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.pcapng"
    monkeypatch.setattr(pcapng, "description", lambda _: "eth0, MTU 1500; dropped by the kernel: 3")
    pcapng.write(file, seen([FLAG] * 8))
    trailer = pcapng.read(file).hops[0].trailer
    assert trailer is not None
    assert (trailer.drops, trailer.errors) == (3, 0)


def test_a_block_that_claims_gigabytes_costs_none(tmp_path: Path) -> None:
    path = tmp_path / "hops.pcapng"
    pcapng.write(path, seen([FLAG] * len(HOPS), 4))
    with path.open("ab") as file:
        file.write((5).to_bytes(4, "little") + (0xF0000000).to_bytes(4, "little") + bytes(60))
    tracemalloc.start()
    try:
        with contextlib.suppress(PcapngError):
            pcapng.read(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_what_is_no_capture_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    pcapng.write(file, seen([FLAG] * 8))
    whole = file.read_bytes()
    for cut in range(0, len(whole), 97):
        file.write_bytes(whole[:cut])
        try:
            after = pcapng.read(file)
        except PcapngError:
            continue
        assert len(after.hops) <= len(HOPS)  # cut between two blocks: what is there is whole


@pytest.mark.parametrize("told", [True, False])
def test_a_path_is_told_by_the_topology_or_by_its_names(tmp_path: Path, told: bool) -> None:
    file = tmp_path / "x.pcapng"
    pcapng.write(file, seen([FLAG] * 8))
    topology = load(find("router-hop.yaml"))
    path = recorded.path_of(pcapng.read(file), ["vm1", "vm2"], topology if told else None)
    assert path == find_path(topology, "vm1", "vm2").points


def test_of_an_older_record_an_uplink_is_known_by_where_it_is() -> None:
    names = ["vm1:eth0", "vm1-eth0", "xen1:eth0", "xen1-eth0", "vm3-eth0", "vm3:eth0"]
    evidence = Evidence(tuple(HopEvidence(name, (), None, None) for name in names))
    path = recorded.path_of(evidence, ["xen1", "vm1", "vm3"], None)
    assert hop_locations(path) == {
        "vm1:eth0": "inside vm1",
        "vm1-eth0": "host's end of vm1",
        "xen1:eth0": "uplink in dom0",
        "xen1-eth0": "TAP of the uplink",
        "vm3-eth0": "host's end of vm3",
        "vm3:eth0": "inside vm3",
    }
    assert [one.name for one in chart.of_path(path).elements] == ["vm1", "bridge", "bridge", "vm3"]


def _longest_path(topology: Topology) -> tuple[ObservationPoint, ...]:
    found: list[tuple[ObservationPoint, ...]] = [()]
    for one, other in itertools.combinations(topology.nodes, 2):
        with contextlib.suppress(UsageError):
            found.append(find_path(topology, one, other).points)
    return max(found, key=len)


def within(frame: drawing.Frame, x: float, y: float) -> bool:
    return frame.x < x < frame.x + frame.width and frame.y < y < frame.y + frame.height


def assert_encloses(plan: drawing.Drawing, frame: drawing.Frame) -> None:
    """A frame has all of its host within it and nothing else, and is within the drawing."""
    assert frame.x >= 0
    assert frame.y >= 0
    assert frame.x + frame.width <= plan.width
    assert frame.y + frame.height <= plan.height
    for box in plan.boxes:
        corners = [
            within(frame, box.x + dx * box.width / 2, box.y + dy * box.height / 2)
            for dx, dy in itertools.product((-1, 1), repeat=2)
        ]
        assert set(corners) == {box.element.host == frame.element.name}, box.element
    uplink = f"{frame.element.name}:", f"{frame.element.name}-"
    for spot in plan.spots:
        if spot.hop.startswith(uplink):  # inside in dom0, its TAP outside
            assert within(frame, spot.x, spot.y) is spot.hop.startswith(uplink[0]), spot.hop


XEN = """
networks: {left: {}, right: {}}
nodes:
  xen1: {hypervisor: xen, interfaces: [{network: left}, {network: right}], labels: {rack: a}}
  vm1: {host: xen1, interfaces: [{network: left}]}
  vm2: {host: xen1, interfaces: [{network: right}]}
  vm4: {host: xen1, interfaces: [{network: right}]}
  xen2: {hypervisor: xen, interfaces: [{network: left}]}
  vm3: {host: xen2, interfaces: [{network: left}]}
  vm5: {interfaces: [{network: right}]}
  xen3: {hypervisor: xen}
routers:
  r1: {interfaces: [{network: left}, {network: right}]}
"""


@pytest.mark.parametrize("shape", ["wide", "tall"])
@pytest.mark.parametrize("ends", list(itertools.permutations(("vm1", "vm2", "vm3", "vm5"), 2)))
def test_a_path_may_leave_a_xen_host_and_come_back(ends: tuple[str, str], shape: Shape) -> None:
    topology = loads(XEN, "x")
    path = find_path(topology, *ends).points
    plan = drawing.place(chart.of_topology(topology, path), path, shape)
    assert [frame.element.name for frame in plan.frames] == ["xen1", "xen2"]
    for frame in plan.frames:
        assert_encloses(plan, frame)
    assert [box.element.what for box in plan.boxes if box.element.name == "xen3"] == ["Xen host"]
    first, second = plan.frames
    apart_x = second.x > first.x + first.width or first.x > second.x + second.width
    apart_y = second.y > first.y + first.height or first.y > second.y + second.height
    assert apart_x or apart_y


def test_a_network_on_both_sides_of_a_border_is_two_bridges() -> None:
    topology = load(find("xen-uplink.yaml"))
    path = find_path(topology, "vm1", "vm3").points
    plan = drawing.place(chart.of_topology(topology, path), path, "wide")
    told = [(box.element.name, box.element.what, box.element.host) for box in plan.boxes]
    assert ("lan", "lab bridge", "") in told
    assert ("lan", "dom0 bridge", "xen1") in told
    assert ("vm1", "PV guest", "xen1") in told
    assert ("vm3", "QEMU guest", "") in told
    (uplink,) = [line.edge for line in plan.lines if line.edge.inside == "xen1:eth0"]
    assert (uplink.owner, uplink.network, uplink.outside) == (
        "net lan in xen1",
        "net lan",
        "xen1-eth0",
    )


@pytest.mark.parametrize("ends", [("vm1", "vm3"), ("vm3", "vm1")])
def test_a_path_alone_tells_the_bridges_of_an_uplink(ends: tuple[str, str]) -> None:
    path = find_path(load(find("xen-uplink.yaml")), *ends).points
    drawn = chart.of_path(path)
    assert [element.name for element in drawn.elements] == [ends[0], "bridge", "bridge", ends[1]]
    assert sorted(hop for edge in drawn.edges for hop in (edge.inside, edge.outside)) == sorted(
        hop.name for hop in path
    )
    dom0, lab = (drawn.row[1], drawn.row[2]) if ends[0] == "vm1" else (drawn.row[2], drawn.row[1])
    (uplink,) = [edge for edge in drawn.edges if edge.inside == "xen1:eth0"]
    assert (uplink.owner, uplink.network) == (dom0, lab)


def test_places_are_told_in_the_words_of_where_they_are() -> None:
    told = hop_locations(find_path(load(find("xen-to-virtio.yaml")), "vm1", "vm3").points)
    assert told == {
        "vm1:eth0": "inside vm1",
        "vm1-eth0": "vif of vm1 in dom0",
        "xen1:eth0": "uplink in dom0",
        "xen1-eth0": "TAP of the uplink",
        "r1-eth0": "host's end of r1",
        "r1:eth0": "inside r1",
        "r1:eth1": "inside r1",
        "r1-eth1": "host's end of r1",
        "vm3-eth0": "host's end of vm3",
        "vm3:eth0": "inside vm3",
    }
    inner = hop_locations(find_path(load(find("xen-router-hop.yaml")), "vm1", "vm2").points)
    assert inner["r1-eth0"] == "veth of r1 in dom0"
    between = inside_guest("xen1", "lan")
    one, *rest = find_path(load(find("xen-uplink.yaml")), "vm1", "vm3").points
    assert hop_locations([one, between, *rest])["xen1:lan"] == "inside xen1"
    two = hop_locations(find_path(loads(XEN, "x"), "vm1", "vm3").points)
    assert two["vm1-eth0"] == "vif of vm1 in dom0 of xen1"
    assert two["xen2:eth0"] == "uplink in dom0 of xen2"


@pytest.mark.parametrize("shape", ["wide", "tall"])
@pytest.mark.parametrize("name", [str(path) for path in shipped()])
def test_every_shipped_topology_is_drawn_whole_and_apart(name: str, shape: Shape) -> None:
    topology = load(find(name))
    path = _longest_path(topology)
    plan = drawing.place(chart.of_topology(topology, path), path, shape)
    bridges = [
        f"{net.name}/{part.name}" if part else net.name
        for net in topology.outer_networks()
        for part in (tuple(one for one in net.segments if not one.is_wire) or (None,))
    ]
    for host in topology.xen_hosts():
        bridges += [net.name for net in topology.inside(host.name).networks]
    nodes = [node.name for node in topology.nodes.values() if not node.hypervisor]
    drawn = sorted(box.element.name for box in plan.boxes)
    assert drawn == sorted([*nodes, *topology.routers, *bridges])
    for one, other in itertools.combinations(plan.boxes, 2):
        apart_x = abs(one.x - other.x) >= BOX[0]
        apart_y = abs(one.y - other.y) >= BOX[1]
        assert apart_x or apart_y, (one.element.name, other.element.name)
    for box in plan.boxes:
        assert box.width / 2 <= box.x <= plan.width - box.width / 2
        assert box.height / 2 <= box.y <= plan.height - box.height / 2
    for spot, another in itertools.combinations(plan.spots, 2):
        assert math.dist((spot.x, spot.y), (another.x, another.y)) > 24, (spot.hop, another.hop)
    assert [one.element.name for one in plan.frames] == [h.name for h in topology.xen_hosts()]
    for frame in plan.frames:
        assert_encloses(plan, frame)
    numbered = sorted((spot.number, spot.hop) for spot in plan.spots if spot.number)
    assert [hop for _, hop in numbered] == [hop.name for hop in path]
    if shape == "tall":
        assert plan.width <= 2 * 346  # a phone shows it at half its size at worst


def test_a_topology_of_lone_nodes_is_drawn() -> None:
    topology = loads("nodes: {a: {}, b: {}, c: {}}", "x")
    plan = drawing.place(chart.of_topology(topology, ()), (), "wide")
    assert len({(box.x, box.y) for box in plan.boxes}) == 3
