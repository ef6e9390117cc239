"""Where the hops of a path are, in words: inside a guest, at its TAP or vif, on an uplink."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from labctl.lab.path import Hop


def whereabouts(path: Sequence[Hop]) -> dict[str, str]:
    """Return a few words for every hop of a path between two guests, by its name.

    Which Xen host a dom0 is of is said where the path passes more than one.
    """
    uplinks = _uplinks(path)
    hosts = {hop.host for hop in path if hop.host} | {hop.owner for hop in uplinks}
    found = {}
    for hop in path:
        host = hop.owner if hop in uplinks else hop.host
        dom0 = f"dom0 of {host}" if len(hosts) > 1 else "dom0"
        if hop in uplinks:
            found[hop.name] = f"uplink in {dom0}" if hop.place == "guest" else "TAP of the uplink"
        elif hop.place == "host":
            found[hop.name] = _end(hop, path, dom0)
        else:
            found[hop.name] = f"inside {hop.owner}"
    return found


def _uplinks(path: Sequence[Hop]) -> set[Hop]:
    """Return both hops of every uplink: those of a node that a path does not begin or end at."""
    ends = {path[0].owner, path[-1].owner} if path else set()
    return {
        hop
        for pair in itertools.pairwise(path)
        if pair[0].owner == pair[1].owner not in ends
        and {one.place for one in pair} == {"guest", "host"}
        for hop in pair
    }


def _end(hop: Hop, path: Sequence[Hop], dom0: str) -> str:
    if not hop.host:
        return f"host's end of {hop.owner}"
    of_guest = any(one.owner == hop.owner and one.place == "guest" for one in path)
    return f"{'vif' if of_guest else 'veth'} of {hop.owner} in {dom0}"
