"""Every target, by its name."""

from __future__ import annotations

from ..target import Target
from . import archives, captures, frames, recipes, records, topologies, wire

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        topologies.TARGET,
        captures.TARGET,
        frames.TARGET,
        recipes.TARGET,
        records.TARGET,
        archives.TARGET,
        wire.OBSERVER,
        wire.AGENT,
    )
}
