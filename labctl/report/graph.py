"""A topology as a graph: what is plugged into what, as text, Mermaid, DOT and plain data.

`labctl.report.graph_svg` draws the same. Of a running lab each element has a state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from labctl.topology.model import Topology

CONSOLE_ONLY = "console only"
"""Of a node that nobody logs in to, among its details."""


@dataclass(frozen=True)
class Link:
    """An interface, which plugs a node or a router into a network."""

    owner: str
    name: str
    """The interface's name in it."""
    network: str
    segment: str
    """The segment of the network; empty where that is one bridge."""
    addresses: tuple[str, ...]
    what: str
    """The NIC's model of a node; empty for a router, whose interfaces are veths."""

    @property
    def label(self) -> str:
        """What stands at its line."""
        return " ".join((self.name, *self.addresses))


@dataclass(frozen=True)
class Element:
    """A node, a router or a network."""

    name: str
    what: str
    """`node`, `router` or `network`."""
    kind: str
    """What it is: a guest kind's name, a forwarder, the kinds of a network's segments."""
    host: str = ""
    """The Xen host that it is on."""
    details: tuple[str, ...] = ()
    """A node's image, a network's subnets and MTU."""
    state: str = ""
    """Of a running lab, as `labctl status` has it."""


@dataclass(frozen=True)
class Graph:
    """All of a topology, in its order."""

    name: str
    owners: tuple[Element, ...]
    """Nodes and routers."""
    networks: tuple[Element, ...]
    links: tuple[Link, ...]

    def links_of(self, owner: str) -> tuple[Link, ...]:
        """Return the interfaces of a node or router."""
        return tuple(link for link in self.links if link.owner == owner)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def of(topology: Topology, states: Mapping[str, str] | None = None) -> Graph:
    """Return the graph of a topology; `states` are those of a running lab, by name."""
    known = states or {}
    owners = [
        Element(
            node.name, "node", node.kind or node.guest_kind.name, node.host,
            (node.image, *([CONSOLE_ONLY] if node.console_only else [])),
            known.get(node.name, ""),
        )
        for node in topology.nodes.values()
    ]  # fmt: skip
    owners += [
        Element(one.name, "router", one.kind, one.host, (), known.get(one.name, ""))
        for one in topology.routers.values()
    ]
    networks = [
        Element(
            one.name,
            "network",
            ", ".join(segment.kind for segment in one.segments) or "bridge",
            "",
            (*map(str, one.subnets), *([] if one.mtu == 1500 else [f"MTU {one.mtu}"])),
        )
        for one in topology.networks.values()
    ]
    links = [
        Link(node.name, one.name, one.network, one.segment, _texts(one.addresses), one.model)
        for node in topology.nodes.values()
        for one in node.interfaces
    ]
    links += [
        Link(router.name, one.name, one.network, one.segment, _texts(one.addresses), "")
        for router in topology.routers.values()
        for one in router.interfaces
    ]
    return Graph(topology.name, tuple(owners), tuple(networks), tuple(links))


def _texts(addresses: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(map(str, addresses))


def title(element: Element) -> str:
    """Return what an element is, in a few words."""
    words = f"{element.kind} on {element.host}" if element.host else element.kind
    if CONSOLE_ONLY in element.details:
        words = f"{words}, {CONSOLE_ONLY}"
    return f"{words}, {element.state}" if element.state else words


def text(graph: Graph) -> str:
    """Return the graph as lines: each network, and below it what is plugged into it."""
    lines = [graph.name]
    for network in graph.networks:
        about = ", ".join((network.kind, *network.details))
        lines.append(f"\n{network.name}  ({about})")
        plugged = [link for link in graph.links if link.network == network.name]
        owners = {one.name: one for one in graph.owners}
        width = max((len(f"{link.owner}:{link.name}") for link in plugged), default=0)
        for at, link in enumerate(plugged):
            sign = "└─" if at == len(plugged) - 1 else "├─"
            place = f" [{link.segment}]" if link.segment else ""
            name = f"{link.owner}:{link.name}".ljust(width)
            addresses = ", ".join(link.addresses) or "no address"
            lines.append(f"{sign} {name}  {addresses}{place}  ({title(owners[link.owner])})")
    alone = [one for one in graph.owners if not graph.links_of(one.name)]
    if alone:
        lines.append("\nplugged into nothing")
        lines += [f"   {one.name}  ({title(one)})" for one in alone]
    return "\n".join(lines) + "\n"


def dot(graph: Graph) -> str:
    """Return the graph in Graphviz's language (graphviz.org/doc/info/lang.html)."""
    lines = [f"graph {_quoted(graph.name)} {{", "  node [fontname=monospace];"]
    lines.append("  edge [fontname=monospace, fontsize=10];")
    for one in graph.networks:
        label = "\n".join((one.name, *one.details))
        lines.append(f"  {_quoted('net ' + one.name)} [shape=ellipse, label={_quoted(label)}];")
    for one in graph.owners:
        shape = "box" if one.what == "node" else "diamond"
        label = f"{one.name}\n{title(one)}"
        lines.append(f"  {_quoted(one.name)} [shape={shape}, label={_quoted(label)}];")
    for link in graph.links:
        label = "\n".join((link.name, *link.addresses))
        ends = f"{_quoted(link.owner)} -- {_quoted('net ' + link.network)}"
        lines.append(f"  {ends} [label={_quoted(label)}];")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(words: str) -> str:
    escaped = words.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def mermaid(graph: Graph) -> str:
    """Return the graph as a Mermaid flowchart (mermaid.js.org/syntax/flowchart.html)."""
    lines = ["flowchart TB"]
    numbers: dict[tuple[str, str], str] = {}
    for at, one in enumerate((*graph.networks, *graph.owners)):
        side = "network" if one.what == "network" else "owner"
        numbers[side, one.name] = f"e{at}"
        words = (one.name, *(one.details if one.what == "network" else (title(one),)))
        begin, end = {"network": ("([", "])"), "router": ("{{", "}}")}.get(one.what, ("[", "]"))
        lines.append(f'  e{at}{begin}"{"<br>".join(map(_entity, words))}"{end}')
    for link in graph.links:
        label = "<br>".join(map(_entity, (link.name, *link.addresses)))
        owner, network = numbers["owner", link.owner], numbers["network", link.network]
        lines.append(f'  {owner} ---|"{label}"| {network}')
    return "\n".join(lines) + "\n"


def _entity(words: str) -> str:
    for sign, name in (("#", "#35;"), ("&", "#38;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;")):
        words = words.replace(sign, name) if sign != "#" else words.replace("#", name)
    return words
