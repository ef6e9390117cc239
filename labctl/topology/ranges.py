"""Ranges: a node that is written once, `vm[1-4]`, and is several; their addresses count up.

Done on the tree, before anything is known of its sense: what follows sees nodes as if each had been
written, and tells of them at the place of the one that was.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from labctl.errors import shown
from labctl.topology.tree import MAX_ITEMS, Item, Loc, Report

MOST = 1024
"""Nodes of one range."""
NAMES = r"[a-z0-9-]*\[[0-9]{1,9}-[0-9]{1,9}\][a-z0-9-]*"
"""What a key of several nodes looks like."""
_RANGE = re.compile(r"([^\[\]]*)\[([0-9]{1,9})-([0-9]{1,9})\]([^\[\]]*)")
_HINT = "write the first and the last number: vm[1-4], vm[01-12]"


def expand(root: Item, report: Report) -> None:
    """Put the nodes of each range in its place; what is wrong with one is told, and it is left out.

    An address that is written is that of the first node; the next node has the next one.
    """
    nodes = root.step("nodes") if root.mapping is not None else None
    if nodes is None or nodes.mapping is None:
        return
    written = nodes.mapping
    if not any("[" in key for key in written):
        return
    left = MAX_ITEMS - _count(root)
    found: dict[str, Item] = {}
    for key, item in written.items():
        if "[" not in key or item.dead:
            found.setdefault(key, item)
            continue
        if (names := _names(key, report)) is None:
            item.dead = True
            found[key] = item  # its place
            continue
        left -= _count(item) * (len(names) - 1)
        if left < 0:
            report.add(("nodes", key), "the nodes of this range are too many", key=True)
            item.dead = True
            found[key] = item
            continue
        for at, name in enumerate(names):
            if name in written or name in found:
                message = f"{key} is also {name}, and there is another node of that name"
                report.add(("nodes", key), message, "give one another name", key=True)
                continue
            found[name] = _copy(item, at, ("nodes", key), report)
    nodes.mapping = found


def _names(key: str, report: Report) -> list[str] | None:
    """Return the names of a range; None where it is none, which is told."""
    loc = ("nodes", key)
    parts = _RANGE.fullmatch(key)
    if parts is None:
        report.add(loc, f"{shown(key)} is no range of nodes", _HINT, key=True)
        return None
    before, first, last, after = parts.groups()
    start, end = int(first), int(last)
    if end < start:
        report.add(loc, f"the range {shown(key)} ends before it begins", _HINT, key=True)
        return None
    if end - start >= MOST:
        report.add(loc, f"the range {shown(key)} has more than {MOST} nodes", key=True)
        return None
    width = len(first) if first.startswith("0") else 0
    return [f"{before}{number:0{width}}{after}" for number in range(start, end + 1)]


def _copy(item: Item, at: int, loc: Loc, report: Report) -> Item:
    """Return the node that comes `at` places after the first."""
    made = _same(item)
    for number, interface in enumerate((made.step("interfaces") or made).sequence or ()):
        way = (*loc, "interfaces", number)
        if at and (mac := interface.step("mac")):
            message = "nodes of a range cannot have one MAC address"
            report.add((*way, "mac"), message, "leave it away: each has its own")
            mac.dead = True
        addresses = interface.step("addresses")
        for place, address in enumerate((addresses.sequence if addresses else None) or ()):
            if at and not address.dead and not _counted(address, at):
                message = f"{address.value} and those after it are too few for the nodes of a range"
                report.add((*way, "addresses", place), message, "use a larger net, or fewer nodes")
                address.dead = True
    return made


def _counted(item: Item, at: int) -> bool:
    """Let an address be the one `at` places further on; tell whether that is in its network.

    What is no address stays as it is, and is told of later.
    """
    try:
        written = ip_interface(str(item.value))
    except ValueError:
        return True
    last = written.network.broadcast_address
    if int(written.ip) + at > int(last) - (written.version == 4 and written.network.prefixlen < 31):
        return False
    kind: type[IPv4Interface | IPv6Interface] = type(written)
    item.value = str(kind((int(written.ip) + at, written.network.prefixlen)))
    return True


def _same(item: Item) -> Item:
    """Return a copy of an item and all in it, with their places."""
    return dataclasses.replace(
        item,
        mapping=None
        if item.mapping is None
        else {key: _same(child) for key, child in item.mapping.items()},
        sequence=None if item.sequence is None else [_same(child) for child in item.sequence],
    )


def _count(item: Item) -> int:
    def each(item: Item) -> Iterator[Item]:
        yield item
        for child in item.children():
            yield from each(child)

    return sum(1 for _ in each(item))
