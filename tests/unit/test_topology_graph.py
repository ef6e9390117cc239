"""The path between each two guests of the shipped topologies, by the names of its points."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from labctl.lab.path import hops
from labctl.topology import Topology, load, shipped

GOLDEN = Path(__file__).parent / "golden" / "paths.text"
"""A line a path: topology, source, destination, interface (`any`), and the points."""


def paths(topology: Topology) -> list[str]:
    """Every path between two guests, by any interface and by each that both have."""
    found = []
    guests = [node for node in topology.nodes.values() if not node.hypervisor]
    for one, other in itertools.permutations(guests, 2):
        theirs = {interface.name for interface in other.interfaces}
        both = [interface.name for interface in one.interfaces if interface.name in theirs]
        for interface in (None, *both):
            names = [hop.name for hop in hops(topology, one.name, other.name, interface)]
            words = (topology.name, one.name, other.name, interface or "any", *names)
            found.append(" ".join(words))
    return found


@pytest.mark.parametrize("file", shipped(), ids=lambda file: file.stem)
def test_the_path_between_two_guests_of_a_shipped_topology_stays_the_same(file: Path) -> None:
    topology = load(file)
    known = [line for line in GOLDEN.read_text().splitlines() if line.split()[0] == topology.name]
    assert paths(topology) == known


def test_paths_are_known_of_shipped_topologies_only() -> None:
    names = {line.split()[0] for line in GOLDEN.read_text().splitlines()}
    assert names == {load(file).name for file in shipped()}
