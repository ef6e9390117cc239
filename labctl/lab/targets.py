"""Which nodes and routers of a lab are meant: by name, pattern or label."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

from labctl.errors import UsageError, nearest
from labctl.topology.model import Topology

PATTERN = frozenset("*?[,")
"""Characters that make a word a pattern, or several: no node's or router's name has them."""


_NO_LABELS = "none has labels; a topology gives them: labels: {role: client}"


def is_pattern(word: str) -> bool:
    """Whether a word may mean several nodes or routers."""
    return not PATTERN.isdisjoint(word)


def chosen(
    topology: Topology, *, pattern: str = "", everything: bool = False, labels: Sequence[str] = ()
) -> list[str]:
    """Return the names that are meant, in the topology's order.

    A `pattern` is names and shell patterns with commas between them, and means nodes and routers;
    `everything` means all nodes. `labels` are `KEY=TEXT`, or `KEY` for any text, and all of them
    must be there: alone they mean nodes and routers, else they leave out of the others.
    Raises `UsageError` where a part of the pattern, or all of it together, means nothing.
    """
    labelled = {one.name: one.labels for one in topology.nodes.values()}
    labelled |= {one.name: one.labels for one in topology.routers.values()}
    found = list(labelled)
    if everything:
        found = list(topology.nodes)
    elif pattern:
        meant: set[str] = set()
        for part in filter(None, pattern.split(",")):
            some = fnmatch.filter(labelled, part)
            if not some:
                hint = nearest(part.strip("*?[]"), labelled)
                raise UsageError(f"no node or router matches {part}", hint)
            meant.update(some)
        found = [name for name in found if name in meant]
    wanted = [one.partition("=") for one in labels]
    found = [
        name
        for name in found
        if all(_fits(labelled[name], key, bool(sign), text) for key, sign, text in wanted)
    ]
    if not found:
        there = sorted({f"{k}={v}" for one in labelled.values() for k, v in one.items()})
        told = f"labels there are: {', '.join(there[:12])}" if there else _NO_LABELS
        what = " and ".join(labels) or pattern or "that"
        raise UsageError(f"no node or router matches {what}", told)
    return found


def _fits(labels: Mapping[str, str], key: str, with_text: bool, text: str) -> bool:
    return key in labels and (labels[key] == text if with_text else True)
