"""What the links have in common that carry a segment inside another network.

Two network namespaces stand for the machines at the ends of a tunnel. In each a bridge joins a port
that comes from the lab, and a device that puts frames into the tunnel; a veth pair, or something
else, is the underlay between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labctl.kinds.base import LinkPlan, LinkProgram, NewLink

LOCAL, REMOTE = "192.0.2.1", "192.0.2.2"
"""Of the two ends of a tunnel (RFC 5737, TEST-NET-1)."""


@dataclass(frozen=True)
class End:
    """One end of the tunnel, as the device there is made for it."""

    device: str
    """What the device is to be called."""
    netns: str
    bridge: str
    """The bridge that it is a port of."""
    lower: str
    """The link of the underlay that is in the same namespace."""
    local: str
    """The IPv4 address of this end, on that link."""
    remote: str


@dataclass(frozen=True)
class Underlay:
    """What carries the tunnel."""

    links: Sequence[NewLink]
    """One in each namespace is called `lower` of its end."""
    points: Sequence[str]
    """Those of its links where packets can be seen that are carried."""
    programs: Sequence[LinkProgram] = ()
    ends_tell: bool = True
    """Whether what comes out of the tunnel has its own metadata at the lab's ends of the ports."""


def ends(base: str) -> tuple[End, End]:
    """Return the two ends of a tunnel whose links' names begin with `base`."""
    one, other = (
        End(f"{base}-{side}v", f"{base}-{side}ns", f"{base}-{side}m", f"{base}-{side}u", *way)
        for side, way in (("a", (LOCAL, REMOTE)), ("b", (REMOTE, LOCAL)))
    )
    return one, other


def pair(base: str, headroom: int) -> Underlay:
    """Return a veth pair between the namespaces, which takes frames longer by `headroom` octets."""
    one, other = ends(base)
    link = NewLink(
        one.lower, "veth", peer=other.lower, netns=one.netns, peer_netns=other.netns,
        address=f"{one.local}/24", peer_address=f"{other.local}/24", headroom=headroom,
    )  # fmt: skip
    return Underlay((link,), (one.lower, other.lower))


def plan(base: str, device: Callable[[End], NewLink], underlay: Underlay) -> LinkPlan:
    """Return the two namespaces with what is in them, and the underlay between them."""
    links: list[NewLink] = [*underlay.links]
    ports: list[tuple[str, str]] = []
    for end in ends(base):
        outer, inner = (f"{end.bridge.removesuffix('m')}{part}" for part in ("e", "p"))
        ports.append((outer, inner))
        links.append(NewLink(end.bridge, "bridge", netns=end.netns))
        links.append(
            NewLink(outer, "veth", peer=inner, peer_netns=end.netns, peer_master=end.bridge)
        )
        links.append(device(end))
    (one, before), (last, after) = ports
    points = (before, *underlay.points, after)
    if underlay.ends_tell:
        points = (one, *points, last)
    programs = tuple(underlay.programs)
    return LinkPlan(tuple(links), ends=(one, last), points=points, programs=programs)
