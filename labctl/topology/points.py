"""Observation points: where packets can be seen, and in whose kernel and namespace that is.

Nothing else says what context and namespace a point is in: who observes or changes something at a
point takes them from it. Which points an element of a topology has is said by `graph`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from labctl.kinds.base import Context

ElementKind = Literal["guest", "router", "uplink", "wire", "forwarding guest"]


_ROUTERS = ("router", "forwarding guest")


@dataclass(frozen=True)
class ObservationPoint:
    """One link where packets can be seen; a `hop` of those that pass it."""

    name: str
    """Unique in a topology, and known from records: `vm1:eth0` is inside a node or router,
    `vm1-eth0` the outer end of that interface (a TAP or vif, or a veth at the bridge). A link of
    a wire has its own name."""
    element: str
    """The guest or router it belongs to, the Xen host whose uplink it is of, or the wire between
    two segments of a network, such as `lan/wire`."""
    kind: ElementKind
    """What it belongs to; the properties below say what follows from that."""
    link: str
    """The link's name where it is observed."""
    context: str
    """Whose kernel it is in: the guest's name, the Xen host's for its dom0, empty for the lab's, in
    which the nodes that are no machines are too."""
    netns: str
    """The name of the network namespace within that context, empty for the context's own."""
    inside: bool
    """Whether it is inside its element; else it is the outer end, at a bridge."""
    observer: str = ""
    """What observes it where that is not a packet socket: the name of an observer
    (`labctl.kinds`), which the point's name ends with: `vm1-eth0@tc-bpf`."""

    end: str = field(default="", compare=False)
    """What an outer end is, in a word: TAP, vif, veth; empty where only its name is known."""

    @property
    def in_guest(self) -> bool:
        """Whether it is an interface of a node of the lab: of a guest, or a Xen host's uplink."""
        return self.inside and self.kind != "router"

    @property
    def in_router(self) -> bool:
        """Whether it is inside a router, be it a machine or not."""
        return self.inside and self.kind in _ROUTERS

    @property
    def of_router(self) -> bool:
        """Whether it belongs to a router, at either end of its interface."""
        return self.kind in _ROUTERS

    @property
    def at_bridge(self) -> bool:
        """Whether it is in no guest or router: the outer end of an interface, or on a wire."""
        return not self.inside

    @property
    def on_wire(self) -> bool:
        """Whether it is a link of a wire between two segments."""
        return self.kind == "wire"

    @property
    def of_guest(self) -> bool:
        """Whether it belongs to a guest, at either end of its interface."""
        return self.kind in ("guest", "forwarding guest")

    @property
    def of_uplink(self) -> bool:
        """Whether it is one of the two ends of a Xen host's uplink."""
        return self.kind == "uplink"

    @property
    def dom0(self) -> str:
        """The Xen host in whose dom0 it is; empty for the lab itself, and inside a guest."""
        return "" if self.of_guest and self.inside else self.context

    @property
    def looks_into(self) -> Context:
        """Whose kernel who observes it looks into."""
        if not self.context:
            return Context.LAB
        return Context.DOM0 if self.dom0 else Context.GUEST


def inside_guest(
    guest: str, link: str, *, is_machine: bool = True, forwards: bool = False
) -> ObservationPoint:
    """Return the point at a device inside a guest, or in a namespace of the lab that is a node."""
    context, netns = (guest, "") if is_machine else ("", guest)
    kind: ElementKind = "forwarding guest" if forwards else "guest"
    return ObservationPoint(f"{guest}:{link}", guest, kind, link, context, netns, inside=True)


def inside_router(router: str, link: str, host: str = "") -> ObservationPoint:
    """Return the point at a device in a router's namespace, in the lab or in the dom0 of `host`."""
    return ObservationPoint(f"{router}:{link}", router, "router", link, host, router, inside=True)


def inside_uplink(host: str, link: str) -> ObservationPoint:
    """Return the point at an uplink where it is a NIC of the Xen host `host`, in its dom0."""
    return ObservationPoint(f"{host}:{link}", host, "uplink", link, host, "", inside=True)


def outer_end(
    kind: ElementKind, element: str, link: str, host: str = "", end: str = ""
) -> ObservationPoint:
    """Return the point at the bridge's end of an interface, in the lab or in the dom0 of `host`."""
    return ObservationPoint(link, element, kind, link, host, "", inside=False, end=end)


def along_wire(wire: str, link: str, netns: str = "") -> ObservationPoint:
    """Return the point at a link of a wire between two segments of a network in the lab."""
    return ObservationPoint(link, wire, "wire", link, "", netns, inside=False)
