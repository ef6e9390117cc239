"""Whether the images that a topology file names can be had, told at their places in the file.

The file's reader cannot: what images there are is known above it. Nothing is built for it; where an
image is not built yet, its recipe tells which drivers it will have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.errors import UsageError
from labctl.images import lookup, modules, recipe_paths
from labctl.images.cache import Image
from labctl.kinds import registry
from labctl.lab import preflight
from labctl.topology import kernels
from labctl.topology.model import Node, Topology
from labctl.topology.problems import Problem, TopologyError
from labctl.topology.tree import Item, Loc, dotted


@dataclass(frozen=True)
class _Known:
    """What is known of an image."""

    memory: int
    """MiB that it needs."""
    built: Image | None
    asked: frozenset[str] = frozenset()
    """The modules that its recipe asks for."""

    def modules(self) -> frozenset[str]:
        """Return the modules of an image that is built, or those its recipe asks for."""
        return modules.names(self.built.initramfs) if self.built else self.asked


def check(topology: Topology, path: Path) -> None:
    """Raise `TopologyError` with every image that cannot be had, or does not suit its node.

    `path` is the file that the topology was read from.
    """
    loaded: dict[str, _Known | UsageError] = {}
    found: list[tuple[Loc, UsageError]] = []
    for node in topology.nodes.values():
        if not node.image:  # it boots a disk image, or nothing at all
            continue
        if node.image not in loaded:
            loaded[node.image] = _load(node.image)
        known = loaded[node.image]
        if isinstance(known, UsageError):
            release = kernels.of(node)
            key = "kernel" if release and release not in recipe_paths.kernels() else "image"
            found.append((("nodes", node.name, key), known))
            continue
        if node.memory < known.memory and not node.initramfs:
            wrong = preflight.too_little(node, known.memory)
            found.append((("nodes", node.name, "memory"), wrong))
        found += _drivers(node, known)
    if found:
        from labctl.topology import text  # YAML, which is not read where all was read before

        root, _ = text.read(path.read_text(encoding="utf-8-sig"), str(path))
        raise TopologyError(_problem(str(path), root, loc, wrong) for loc, wrong in found)


def _load(name: str) -> _Known | UsageError:
    if image := lookup.built(name):
        return _Known(image.memory, image)
    from labctl.images import cache, recipe  # YAML and pydantic

    try:
        loaded = recipe.load(name)
    except UsageError as wrong:
        return wrong
    asked = frozenset(name.replace("-", "_") for name in loaded.recipe.modules)
    try:
        built = cache.find(name, loaded.digest(loaded.lock()))
    except UsageError:  # without a lock nothing can be built; the recipe is all there is
        built = None
    return _Known(loaded.memory, built, asked)


def _drivers(node: Node, known: _Known) -> list[tuple[Loc, UsageError]]:
    """Return what is wrong with a node's NICs; a kernel of the user's own brings what it brings."""
    wanted = [registry.nic(one.model) for one in node.interfaces]
    if node.kernel or node.initramfs or all(model.in_every_image for model in wanted):
        return []
    there = known.modules()
    return [
        (("nodes", node.name, "interfaces", at, "model"),
         preflight.no_driver(node, node.interfaces[at].name, model))
        for at, model in enumerate(wanted)
        if not model.in_every_image and there and model.driver not in there
    ]  # fmt: skip


def _problem(file: str, root: Item | None, loc: Sequence[str | int], wrong: UsageError) -> Problem:
    """Place a problem at the value that is wrong, or at what should hold it."""
    items = root.walk(tuple(loc)) if root else []
    if root and len(items) <= len(loc) and loc[-1] in ("image", "kernel", "memory"):
        group = root.walk((*loc[:-1], "group"))[-1].value
        for place in (("groups", str(group), loc[-1]), ("defaults", loc[-1])):
            found = root.walk(place)
            if len(found) == len(place) + 1:
                items, loc = found, place
                break
    line, column = (items[-1].line, items[-1].column) if items else (0, 0)
    return Problem(file, line, column, dotted(loc), wrong.message, wrong.hint)
