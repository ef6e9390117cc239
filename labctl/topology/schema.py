"""The shape of a topology file, as pydantic models: keys, kinds of values, what may be left out.

Nothing here looks from one part at another; that is done on the resolved model (`check`). The
docstrings under the fields are what editors show, through the JSON Schema.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, WrapValidator

from labctl.kinds import forwarders, links, registry
from labctl.kinds.base import Kind
from labctl.topology import fields, impairment_schema, node_schema
from labctl.topology.disk_schema import DiskImage
from labctl.topology.login_schema import MOST_STEPS, ConsoleStep, LoginOrConsole
from labctl.topology.tree import Loc

WIDTH = 93
"""Of a line of a description: as in those that stand in this file."""


class _Shape(BaseModel):
    model_config = fields.STRICT


class _Labelled(_Shape):
    labels: dict[fields.LabelKey, fields.Label] = Field(
        default_factory=dict, max_length=fields.MAX_LABELS
    )
    """Short texts of your own, shown in reports: {role: client}. They change nothing."""


class Offload(_Shape):
    """What to switch on or off, at three layers; what is not named stays as it comes."""

    guest: dict[fields.Feature, fields.Switch] = Field(default_factory=dict)
    """Features of the NIC inside the guest, as ethtool names them: {tx: off, tso: off}."""
    tap: dict[fields.Feature, fields.Switch] = Field(default_factory=dict)
    """Features of the TAP on the host's side, as ethtool names them: {tx: off}."""
    device: dict[fields.DeviceFeature, fields.Switch] = Field(default_factory=dict)
    """Features the virtio device offers to the guest's driver: {csum: off, guest_csum: off}."""


class Segment(_Shape):
    """A part of a network: something to plug interfaces into, or a wire between two such."""

    kind: fields.LinkKind = links.DEFAULT
    options: dict[str, Any] = Field(default_factory=dict, max_length=64)
    """What the kind is told; each kind has options of its own."""


class Network(_Labelled):
    """What interfaces are plugged into; a Linux bridge unless it says otherwise."""

    kind: fields.LinkKind | None = None
    options: dict[str, Any] = Field(default_factory=dict, max_length=64)
    """What the kind is told; each kind has options of its own."""
    segments: dict[fields.SegmentName, Segment | None] = Field(default_factory=dict, max_length=64)
    """Parts it is made of, from one end to the other, in place of a kind: bridges, and between each
    two of them a wire. {west: {}, wire: {kind: veth}, east: {}}"""

    mtu: fields.Mtu = 1500
    """Octets of an IP packet that every port of the bridge carries."""
    stp: fields.Flag = False
    """Whether the bridge speaks the spanning tree protocol."""
    subnets: list[fields.Subnet] = Field(default_factory=list, max_length=64)
    """IPv4 and IPv6 subnets; addresses on this network must lie in one of them, if any is given."""
    addresses: list[fields.Address] = Field(default_factory=list, max_length=256)
    """Addresses of the bridge device itself; none by default."""


class Route(_Shape):
    """A static route."""

    to: fields.Target
    """A network such as 10.0.2.0/24, or `default` (of the family of `via`)."""
    via: fields.Gateway
    """The gateway's address, on a network of this node."""


class Interface(_Labelled):
    """A NIC of a node; the first is eth0 in the guest, the second eth1."""

    network: fields.NetworkRef
    """The network it is plugged into."""
    segment: fields.SegmentRef | None = None
    """The segment of the network, where it has several; a wire is none to plug anything into."""
    addresses: list[fields.Address] = Field(default_factory=list, max_length=256)
    """IPv4 and IPv6 addresses with prefix lengths."""
    mac: fields.Mac | None = None
    """Its MAC address; made from the names by default, always the same."""
    model: fields.NicModel | None = None
    """The NIC that QEMU emulates; xen for a guest of a Xen host, which has no other kind."""
    mtu: fields.Mtu | None = None
    """Octets; the network's by default, and at most that."""
    offload: Offload | None = None
    """Offloads of this interface, over those of the node and the defaults."""
    impairment: impairment_schema.Impairment | None = None
    """What happens to frames on their way to it: {delay: 20ms, loss: 1%}."""


def _image(value: object, _both: object) -> str | DiskImage:
    # By what is written, so that what is told is wrong with that, not with both of a union.
    if isinstance(value, dict):
        return DiskImage.model_validate(value)
    return fields.image_name(value)


class _Inherited(_Shape):
    image: Annotated[fields.ImageName | DiskImage, WrapValidator(_image)] | None = None
    """The image the guest boots: the name of one of labctl's (micro by default, xen-host for a Xen
    host), or a disk image, as a mapping."""
    kernel: fields.File | None = None
    """A kernel in place of the image's: one of Debian's, such as debian-13 (labctl image list), or
    a file of your own; a path relative to this file."""
    initramfs: fields.File | None = None
    """An initramfs of your own in place of the image's; a path relative to this file."""
    user_data: fields.UserData | None = None
    """What else cloud-init does in a guest that boots a disk: a mapping, as in a file that begins
    with #cloud-config, or the path of such a file, or of a script, relative to this file."""
    clone: bool | None = None
    """Whether the guest may start from a saved state instead of booting: true with a kernel or an
    initramfs of your own too, false never; by default with the image's only."""
    memory: fields.Memory | None = None
    """Memory in MiB, or with a unit: 256M, 1G; 128 by default, 2048 for a Xen host."""
    vcpus: fields.Vcpus | None = None
    """Virtual CPUs; 1 by default, 2 for a Xen host."""
    model: fields.NicModel | None = None
    """The NIC that QEMU emulates, for interfaces that name none; virtio by default. Guests of a Xen
    host have xen."""
    offload: Offload | None = None
    """Offloads of every interface that does not say otherwise."""
    files: node_schema.Files = Field(default_factory=dict)
    """Files that are written into the guest when it has started, by path: their text, or a mapping.
    {/etc/motd: hello}"""
    exec: node_schema.Commands = Field(default_factory=list)
    """Commands that its shell runs then, one after the other; those it inherits come before."""


class Defaults(_Inherited):
    """What nodes inherit; Xen hosts only the model and the offloads."""


class Group(_Inherited):
    """What the nodes of a group have unless they say otherwise, over the defaults."""

    labels: dict[fields.LabelKey, fields.Label] = Field(default_factory=dict, max_length=64)
    """Labels of each of its nodes."""


class Node(_Inherited, _Labelled):
    """A guest."""

    group: node_schema.GroupName | None = None
    """The group whose settings it has."""
    kind: fields.GuestKind | None = None
    role: Literal["router"] | None = None
    """router lets it forward between its interfaces: paths pass it."""
    forwarder: fields.Forwarder | None = None
    """What forwards in a node with the role router: its kernel by default (namespace), or a program
    of labctl's that runs in it, such as raw; that needs an image with Python, such as router."""
    forwarder_options: dict[str, Any] = Field(default_factory=dict, max_length=64)
    """What the forwarder is told; each has options of its own."""
    login: LoginOrConsole | None = None
    """How to get into a guest that boots a disk image without cloud-init: by SSH, as a mapping; or
    console, where nobody logs in, and it is seen from outside only."""
    console: list[ConsoleStep] = Field(default_factory=list, max_length=MOST_STEPS)
    """What is typed on the console of such a guest when it starts, one step after another."""
    hypervisor: Literal["xen"] | None = None
    """xen makes this node a Xen host: other nodes and routers can live on it. Its interfaces are
    the uplinks of the networks inside."""
    host: fields.NodeRef | None = None
    """The Xen host this node lives on; none by default: it is a QEMU guest of the lab itself."""
    interfaces: list[Interface] = Field(default_factory=list, max_length=16)
    """Its NICs on the lab's networks, in the order eth0, eth1, …"""
    routes: list[Route] = Field(default_factory=list, max_length=1024)
    """Its static routes."""


class RouterInterface(_Labelled):
    """An interface of a router; the first is eth0 in the router's namespace."""

    network: fields.NetworkRef
    """The network it is plugged into."""
    segment: fields.SegmentRef | None = None
    """The segment of the network, where it has several; a wire is none to plug anything into."""
    addresses: list[fields.Address] = Field(default_factory=list, max_length=256)
    """IPv4 and IPv6 addresses with prefix lengths."""
    mac: fields.Mac | None = None
    """Its MAC address; made from the names by default, always the same."""
    mtu: fields.Mtu | None = None
    """Octets; the network's by default, and at most that."""
    impairment: impairment_schema.Impairment | None = None
    """What happens to frames on their way to it: {delay: 20ms, loss: 1%}."""


class Router(_Labelled):
    """Forwards packets between networks, on the host's side."""

    host: fields.NodeRef | None = None
    """The Xen host in whose dom0 this router is; none by default: it is in the lab itself."""
    kind: fields.Forwarder = forwarders.DEFAULT
    options: dict[str, Any] = Field(default_factory=dict, max_length=64)
    """What the kind is told; each kind has options of its own."""
    interfaces: list[RouterInterface] = Field(max_length=64)
    """Its interfaces, two or more."""
    routes: list[Route] = Field(default_factory=list, max_length=1024)
    """Its static routes, where there are more routers than one."""


class Topology(_Shape):
    """A lab: guests, the bridges between them, and routers."""

    name: fields.TopologyName | None = None
    """The lab's name; the file's name by default. MAC addresses are made from it."""
    defaults: Defaults = Field(default_factory=Defaults)
    """What every node has unless it says otherwise."""
    groups: dict[node_schema.GroupName, Group | None] = Field(default_factory=dict, max_length=256)
    """What several nodes have in common, by the name of a group: {client: {memory: 256M}}"""
    networks: dict[fields.LinkName, Network | None] = Field(default_factory=dict)
    """Bridges by name (at most 15 characters)."""
    nodes: dict[fields.NodeName, Node]
    """Guests by host name; vm[1-4] are four, whose addresses count up from what is written."""
    routers: dict[fields.HostName, Router] = Field(default_factory=dict)
    """Routers by name."""

    def layers(self, node: str) -> list[tuple[Loc, Node | Group | Defaults]]:
        """Return where a node's settings are written, the innermost first."""
        group = self.groups.get(self.nodes[node].group or "")
        between: list[tuple[Loc, Node | Group | Defaults]] = (
            [(("groups", str(self.nodes[node].group)), group)] if group else []
        )
        return [(("nodes", node), self.nodes[node]), *between, (("defaults",), self.defaults)]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a topology file, made from these models."""
    made = Topology.model_json_schema()
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    # Keys of the user's own, for YAML anchors; taken out before the models see the file.
    made["patternProperties"] = {"^x-": {"description": "Yours: labctl does not read it."}}
    made["properties"]["nodes"]["minProperties"] = 1
    router = made["$defs"]["Router"]
    router["properties"]["interfaces"]["minItems"] = 2
    _tell_kinds(router, registry.FORWARDERS.usable(), forwarders.DEFAULT)
    _tell_kinds(made["$defs"]["Segment"], registry.LINKS.usable(), links.DEFAULT)
    alone = [kind for kind in registry.LINKS.usable() if not kind.joins]
    _tell_kinds(made["$defs"]["Network"], alone, links.DEFAULT)
    _tell_words(made["$defs"]["Node"], registry.GUESTS.usable())
    for holder in ("Interface", "Defaults", "Node"):
        models = {"enum": list(registry.NICS.names()), "type": "string"}
        made["$defs"][holder]["properties"]["model"]["anyOf"][0] = models
    for names in ("networks", "nodes", "routers"):
        made["properties"][names]["additionalProperties"] = False
    return made


def _tell_kinds(made: dict[str, Any], kinds: Sequence[Kind], default: str) -> None:
    """Say in a schema what kinds there are, and what options each has."""
    from labctl.topology import options  # which knows this module

    _tell_words(made, kinds)
    made["allOf"] = [
        {
            # Where the key may be left out, the default's options are meant.
            "if": {"properties": {"kind": {"const": kind.name}}}
            | ({} if kind.name == default else {"required": ["kind"]}),
            "then": {"properties": {"options": options.schema(kind)}},
        }
        for kind in kinds
    ]


def _tell_words(made: dict[str, Any], kinds: Sequence[Kind]) -> None:
    """Say in a schema what kinds there are."""
    told = " ".join(f"{kind.name}: {kind.summary}." for kind in kinds)
    written = made["properties"]["kind"]
    more: dict[str, Any] = {
        "enum": [kind.name for kind in kinds],
        "description": textwrap.fill(told, WIDTH, break_on_hyphens=False),
    }
    if "anyOf" in written:  # it can be left out, as null too
        del written["anyOf"]
        more |= {"type": ["string", "null"], "enum": [*more["enum"], None]}
    made["properties"]["kind"] = dict(sorted((written | more).items()))
