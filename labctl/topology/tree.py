"""A topology as it was written: values with their places, before anything is known of their sense.

What is faulty is marked dead and left out, so that the rules after the first fault still see the
rest and all problems of a file come out together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

from labctl.errors import shown
from labctl.topology.problems import Problem, TopologyError

MAX_BYTES = 1 << 20
"""Of a file."""
MAX_DEPTH = 32
MAX_ITEMS = 20_000
"""With every alias expanded."""

_AS_TEXT = (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    os.PathLike,
)

Loc = tuple[str | int, ...]
"""The way from the root to a value: keys of mappings, indices of lists."""


@dataclass(eq=False)
class Item:
    """A scalar, or a `mapping` or a `sequence` of more items, with its place (from 1; 0: none)."""

    line: int = 0
    column: int = 0
    key_line: int = 0
    """Where its key stands, for the value of a mapping; else 0."""
    key_column: int = 0
    value: object = None
    mapping: dict[str, Item] | None = None
    sequence: list[Item] | None = None
    dead: bool = False

    def children(self) -> Iterator[Item]:
        """Yield the items directly inside, dead or alive."""
        if self.mapping is not None:
            yield from self.mapping.values()
        yield from self.sequence or ()

    def plain(self) -> object:
        """Return what is alive as dicts, lists and scalars."""
        if self.mapping is not None:
            return {key: item.plain() for key, item in self.mapping.items() if not item.dead}
        if self.sequence is not None:
            return [item.plain() for item in self.sequence if not item.dead]
        return self.value

    def step(self, key: str | int) -> Item | None:
        """Return the living child of this key, or of this index among the living."""
        if isinstance(key, str):
            child = (self.mapping or {}).get(key)
            return child if child and not child.dead else None
        alive = [item for item in self.sequence or () if not item.dead]
        return alive[key] if key < len(alive) else None

    def walk(self, loc: Loc) -> list[Item]:
        """Return the items from the root towards `loc`, as far as they exist."""
        found = [self]
        for key in loc:
            child = found[-1].step(key)
            if child is None:
                break
            found.append(child)
        return found

    def hurt(self) -> bool:
        """Tell whether something inside was left out, so that conclusions from it may be wrong."""
        return any(child.dead or child.hurt() for child in self.children())


def dotted(loc: Sequence[str | int]) -> str:
    """Return a way as text, such as `nodes.vm1.interfaces[0]`."""
    text = ""
    for key in loc:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


class Report:
    """Collects problems of one topology and knows their places."""

    def __init__(self, root: Item, file: str) -> None:
        self.root = root
        self.file = file
        self.problems: list[Problem] = []

    def add(self, loc: Loc, message: str, hint: str = "", *, key: bool = False) -> None:
        """Add a problem with the value at `loc`, or with its key.

        Where the file does not hold that value (a default, a missing key), the place is that of
        the nearest one around it.
        """
        found = self.root.walk(loc)
        item = found[-1]
        if (key or len(found) <= len(loc)) and item.key_line:
            line, column = item.key_line, item.key_column
        else:
            line, column = item.line, item.column
        self.problems.append(Problem(self.file, line, column, dotted(loc), message, hint))

    def whole(self, loc: Loc) -> bool:
        """Tell whether the value at `loc` is there with nothing of it left out."""
        found = self.root.walk(loc)
        return len(found) == len(loc) + 1 and not found[-1].hurt()


def from_python(value: object, name: str, problems: list[Problem]) -> Item:
    """Return the tree of Python values, without places; objects of `ipaddress` become text.

    Adds a problem for each key that is no text. Raises `TopologyError` for what is too large or
    contains itself; `name` stands for the file.
    """
    left = MAX_ITEMS

    def build(value: object, loc: Loc) -> Item:
        nonlocal left
        left -= 1
        if left < 0 or len(loc) > MAX_DEPTH:
            what = "too large" if left < 0 else "nested too deep, or inside itself"
            raise TopologyError([Problem(name, 0, 0, dotted(loc[:4]), f"this is {what}")])
        if isinstance(value, _AS_TEXT):
            return Item(value=str(value))
        if isinstance(value, Mapping):
            mapping = {}
            for key, inside in value.items():
                if isinstance(key, str):
                    mapping[key] = build(inside, (*loc, key))
                else:
                    message = f"the key {shown(key)} is not text"
                    problems.append(Problem(name, 0, 0, dotted(loc), message))
            return Item(mapping=mapping)
        if isinstance(value, list | tuple):
            return Item(sequence=[build(inside, (*loc, at)) for at, inside in enumerate(value)])
        return Item(value=value)

    return build(value, ())
