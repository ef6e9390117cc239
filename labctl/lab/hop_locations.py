"""Where the hops of a path are, in words: inside a guest, at its TAP or vif, on an uplink."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.topology.points import ObservationPoint


def hop_locations(path: Sequence[ObservationPoint]) -> dict[str, str]:
    """Return a few words for every hop of a path, by its name.

    Which Xen host a dom0 is of is said where the path passes more than one.
    """
    several = len({hop.dom0 for hop in path if hop.dom0}) > 1
    return {hop.name: _words(hop, f"dom0 of {hop.dom0}" if several else "dom0") for hop in path}


def _words(hop: ObservationPoint, dom0: str) -> str:
    if hop.of_uplink:
        return f"uplink in {dom0}" if hop.inside else f"{hop.end or 'TAP'} of the uplink"
    if hop.inside:
        return f"inside {hop.element}"
    if not hop.dom0:
        return f"host's end of {hop.element}"
    return f"{hop.end or 'outer end'} of {hop.element} in {dom0}"
