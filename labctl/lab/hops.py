"""Which hops of a lab are meant: by name, pattern, owner or path."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

from labctl.errors import UsageError, nearest
from labctl.lab.targets import is_pattern
from labctl.topology.graph import find_path, points_of
from labctl.topology.model import Topology
from labctl.topology.points import ObservationPoint, inside_guest, inside_router


def chosen(
    topology: Topology,
    words: Sequence[str],
    *,
    everything: bool = False,
    path: tuple[str, str] | None = None,
) -> tuple[ObservationPoint, ...]:
    """Return the hops that are meant, each once.

    A word is the name of a hop, a shell pattern for some, or a node, router or wire for all of
    its hops; also OWNER:LINK, a device inside that the topology does not know. `everything` means
    all hops, `path` those between two nodes. Raises `UsageError` for a word that means nothing.
    """
    known = points_of(topology)
    found: dict[str, ObservationPoint] = dict(known) if everything else {}
    if path is not None:
        for name in path:
            if name not in topology.nodes:
                raise UsageError(f"no node is called {name}", nearest(name, topology.nodes))
        found |= {hop.name: hop for hop in find_path(topology, *path).points}
    for word in words:
        found |= {hop.name: hop for hop in _meant(topology, known, word)}
    if not found:
        raise UsageError("no hop is named", f"hops of this lab: {', '.join(known)}; or --all")
    return tuple(found.values())


def _meant(
    topology: Topology, known: Mapping[str, ObservationPoint], word: str
) -> list[ObservationPoint]:
    if word in known:
        return [known[word]]
    if is_pattern(word):
        some = [known[name] for name in fnmatch.filter(known, word)]
    else:
        some = [hop for hop in known.values() if hop.element == word]
    if some:
        return some
    owner, _, link = word.partition(":")
    if link and owner in topology.routers:
        return [inside_router(owner, link, topology.routers[owner].host)]
    if link and owner in topology.nodes:
        node = topology.nodes[owner]
        machine = node.guest_kind.is_machine
        return [inside_guest(owner, link, is_machine=machine, forwards=node.forwards)]
    raise UsageError(f"no hop is called {word}", nearest(word, known))
