"""The parts of a report: evidence read back, drawings, sentences."""

from __future__ import annotations

import contextlib
import itertools
import math
from pathlib import Path

import pytest

from labctl.capture import pcapng
from labctl.capture.judge import Checksum, Metadata
from labctl.capture.pcapng import PcapngError
from labctl.errors import UsageError
from labctl.lab.path import Hop, hops
from labctl.report import drawing, recorded
from labctl.report.drawing import BOX, Shape
from labctl.topology import Topology, find, load, loads, shipped
from report_records import FLAG, HOPS, LOST, seen


def test_evidence_comes_back_from_a_capture_as_it_was_judged(tmp_path: Path) -> None:
    before = seen([FLAG] * 4 + [LOST] * 3 + [None])
    file = tmp_path / "x.pcapng"
    pcapng.write(file, before)
    after = recorded.read(file)
    assert [hop.hop for hop in after.hops] == list(HOPS)
    for old, new in zip(before, after.hops, strict=True):
        assert [s.judgement for s in old.sightings] == [s.judgement for s in new.sightings]
        assert [(s.time_ns, s.direction) for s in old.sightings] == [
            (s.time_ns, s.direction) for s in new.sightings
        ]
        assert new.complete
    first = after["vm1:eth0"].sightings[0].judgement
    assert (first.state, first.metadata) == (Checksum.PARTIAL, Metadata.NEEDS_CSUM)
    assert after["r1:eth1"].sightings[0].judgement.lost


def test_a_cut_hop_comes_back_as_a_cut_one(tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    pcapng.write(file, seen([FLAG] * 8, cut="r1:eth0"))
    after = recorded.read(file)
    assert [hop.hop for hop in after.hops if not hop.complete] == ["r1:eth0"]
    assert "within a block" in after["r1:eth0"].note


def test_what_is_no_capture_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    pcapng.write(file, seen([FLAG] * 8))
    whole = file.read_bytes()
    for cut in range(0, len(whole), 97):
        file.write_bytes(whole[:cut])
        try:
            after = recorded.read(file)
        except PcapngError:
            continue
        assert len(after.hops) <= len(HOPS)  # cut between two blocks: what is there is whole


@pytest.mark.parametrize("told", [True, False])
def test_a_path_is_told_by_the_topology_or_by_its_names(tmp_path: Path, told: bool) -> None:
    file = tmp_path / "x.pcapng"
    pcapng.write(file, seen([FLAG] * 8))
    topology = load(find("router-hop.yaml"))
    path = recorded.path_of(recorded.read(file), ["vm1", "vm2"], topology if told else None)
    assert path == hops(topology, "vm1", "vm2")


def _longest_path(topology: Topology) -> tuple[Hop, ...]:
    found: list[tuple[Hop, ...]] = [()]
    for one, other in itertools.combinations(topology.nodes, 2):
        with contextlib.suppress(UsageError):
            found.append(hops(topology, one, other))
    return max(found, key=len)


@pytest.mark.parametrize("shape", ["wide", "tall"])
@pytest.mark.parametrize("name", [str(path) for path in shipped()])
def test_every_shipped_topology_is_drawn_whole_and_apart(name: str, shape: Shape) -> None:
    topology = load(find(name))
    path = _longest_path(topology)
    plan = drawing.place(drawing.of_topology(topology, path), path, shape)
    assert len(plan.boxes) == len(topology.nodes) + len(topology.routers) + len(topology.networks)
    for one, other in itertools.combinations(plan.boxes, 2):
        apart_x = abs(one.x - other.x) >= BOX[0]
        apart_y = abs(one.y - other.y) >= BOX[1]
        assert apart_x or apart_y, (one.element.name, other.element.name)
    for box in plan.boxes:
        assert box.width / 2 <= box.x <= plan.width - box.width / 2
        assert box.height / 2 <= box.y <= plan.height - box.height / 2
    for spot, another in itertools.combinations(plan.spots, 2):
        assert math.dist((spot.x, spot.y), (another.x, another.y)) > 24, (spot.hop, another.hop)
    numbered = sorted((spot.number, spot.hop) for spot in plan.spots if spot.number)
    assert [hop for _, hop in numbered] == [hop.name for hop in path]
    if shape == "tall":
        assert plan.width <= 2 * 346  # a phone shows it at half its size at worst


def test_a_topology_of_lone_nodes_is_drawn() -> None:
    topology = loads("nodes: {a: {}, b: {}, c: {}}", "x")
    plan = drawing.place(drawing.of_topology(topology, ()), (), "wide")
    assert len({(box.x, box.y) for box in plan.boxes}) == 3
