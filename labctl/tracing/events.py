"""A trace as events, one after the other: `ready`, a `packet` each, and `end`.

What they hold is declared in `labctl.tracing.schema`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labctl.topology.points import ObservationPoint
from labctl.tracing.flow import Flow
from labctl.tracing.result import Trace


def ready(lab: str, flow: Flow, path: Sequence[ObservationPoint]) -> dict[str, Any]:
    """Return what is said once nothing that is sent is missed any more."""
    return {
        "lab": lab,
        "source": path[0].element,
        "destination": path[-1].element,
        "flow": flow.to_json(),
        "path": [hop.name for hop in path],
    }


def end(found: Trace) -> dict[str, Any]:
    """Return what is known at the end: all of a trace but its packets."""
    known = found.to_json()
    del known["journeys"]
    return known
