"""Topologies that were read before: what was found good once need not be checked again.

Reading takes YAML and pydantic, whose import alone is a third of the time until `up` makes its
first link. A resolved topology is kept under the file's bytes, its path, and the code that read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from labctl import kinds
from labctl.kinds import guests, registry
from labctl.sandbox import user_cache
from labctl.topology.model import Topology
from labctl.topology.tree import MAX_BYTES

KIND = "topologies"


def load(path: Path) -> Topology:
    """Return the topology of a file as `reading.load` does, which it leaves alone where it can.

    One that names files or disk images of its own is read each time: files must be there, and the
    lock of the images may have changed. So is one with a guest kind of another package, whose
    defaults may have changed. Raises as `reading.load` does.
    """
    key = _key(path)
    known: Topology | None = user_cache.load(KIND, key, Topology) if key else None
    # A kind may be another package's, which is gone by now.
    if known and _usable(known):
        return known
    from labctl.topology import loader

    topology = loader.load(path)
    nodes = topology.nodes.values()
    own = [
        node.kernel or node.initramfs or node.disk or node.kind not in ("", *guests.SHIPPED)
        for node in nodes
    ]
    if key and not any(own) and _key(path) == key:  # what was read is what the key is of
        user_cache.keep(KIND, key, topology, Topology)
    return topology


def _usable(topology: Topology) -> bool:
    segments = [one for network in topology.networks.values() for one in network.segments]
    nodes = topology.nodes.values()
    models = {one.model for node in nodes for one in node.interfaces}
    return (
        all(registry.FORWARDERS.find(router.kind) for router in topology.routers.values())
        and all(registry.LINKS.find(segment.kind) for segment in segments)
        and all(registry.GUESTS.find(node.kind) for node in nodes if node.kind)
        and all(registry.NICS.find(model) for model in models)
    )


def _kinds() -> Iterator[str]:
    """Yield what tells one state of the kinds' code from another: defaults and plans are there."""
    for file in sorted(Path(kinds.__file__).parent.rglob("*.py")):
        facts = file.stat()
        yield f"{file} {facts.st_mtime_ns} {facts.st_size}"


def _key(path: Path) -> str:
    """Return what a file's topology is kept under; empty for one that is not to be kept.

    That is one that cannot be read, or holds more than a topology may: a disk image named by
    mistake can be larger than memory.
    """
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            return ""
        return user_cache.key(Path(__file__).parent, [content, str(path.absolute()), *_kinds()])
    except (OSError, ValueError):
        return ""
