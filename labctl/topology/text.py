"""From text to a tree with places: YAML, read with care for what a file may try.

Limits are enforced on the stream of events and on the graph of nodes, before anything is expanded.
Scalars follow YAML 1.1 for `on`, `off`, `yes` and `no` (that is how offloads are written), but not
for sexagesimal numbers (an unquoted MAC must stay text), octal numbers and dates.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from labctl.errors import shown
from labctl.topology.problems import Problem
from labctl.topology.tree import MAX_BYTES, MAX_DEPTH, MAX_ITEMS, Item

MAX_ALIASES = 1000

_TAG = "tag:yaml.org,2002:"
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """PyYAML's safe loader with resolvers of our own."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("bool", r"(?:yes|no|true|false|on|off)$", "yYnNtTfFoO"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+)$", "-+0123456789"),
    # Written so that no two parts can match the same digits: else a long number that is none is
    # tried at each of its places for each of its places.
    (
        "float",
        r"[-+]?(?:(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+\.)$",
        "-+.0123456789",
    ),
    ("null", r"(?:~|null|)$", "~nN\0"),
    ("merge", r"<<$", "<"),
):
    _flags = re.IGNORECASE if _tag in ("bool", "null") else 0
    for _letter in _first:
        _key = "" if _letter == "\0" else _letter  # the empty scalar has no first letter
        _resolvers = _Loader.yaml_implicit_resolvers.setdefault(_key, [])
        _resolvers.append((_TAG + _tag, re.compile(_pattern, _flags)))


class NotTextError(ValueError):
    """A file is not UTF-8 text from `line` and `column` (from 1) on."""

    def __init__(self, line: int, column: int) -> None:
        super().__init__("this is not UTF-8 text")
        self.line, self.column = line, column


class _Stop(Exception):  # noqa: N818 - it ends the reading, it is no fault of ours
    """Reading cannot go on; holds the one problem that says why."""

    def __init__(self, line: int, column: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.line, self.column, self.message, self.hint = line, column, message, hint


def _place(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def decode(data: bytes) -> str:
    """Return the text of a file, without its byte order mark.

    Raises `NotTextError`.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", errors="replace")
        line, column = _place(before, len(before))
        raise NotTextError(line, column) from None


def read(text: str, file: str) -> tuple[Item | None, list[Problem]]:
    """Read one YAML document into a tree.

    Returns the tree (None where there is none to go on with) and the problems found on the way.
    """
    problems: list[Problem] = []
    try:
        _check_text(text)
        _check_events(text)
        root = _compose(text)
        if root is None:
            raise _Stop(1, 1, "the file is empty", "labctl schema tells what belongs in it")
        _check_graph(root)
        return _Builder(file, problems).item(root, ()), problems
    except _Stop as stop:
        problems.append(Problem(file, stop.line, stop.column, "", stop.message, stop.hint))
    except yaml.MarkedYAMLError as error:
        problems.append(_syntax(error, text, file))
    except yaml.YAMLError as error:
        problems.append(Problem(file, 1, 1, "", f"this is not YAML: {error}"))
    return None, problems


def _check_text(text: str) -> None:
    if len(text) > MAX_BYTES:
        raise _Stop(1, 1, "the file is larger than 1 MiB", "a topology is a few kilobytes")
    odd = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if odd:
        code = f"U+{ord(odd.group()):04X}"
        raise _Stop(*_place(text, odd.start()), f"this is not text: it holds {code}")


def _check_events(text: str) -> None:
    """Refuse what would be costly to compose, from the stream of events alone."""
    depth = aliases = documents = nodes = 0
    for event in yaml.parse(text, Loader=_Loader):
        mark = event.start_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        nodes += isinstance(event, yaml.NodeEvent)
        if nodes > MAX_ITEMS:
            raise _Stop(line, column, f"the file has more than {MAX_ITEMS} values")
        if depth > MAX_DEPTH:
            raise _Stop(line, column, f"this is nested more than {MAX_DEPTH} deep")
        if aliases > MAX_ALIASES:
            raise _Stop(line, column, f"the file has more than {MAX_ALIASES} aliases")
        if documents > 1:
            hint = "write each topology into a file of its own"
            raise _Stop(line, column, "a second document starts here", hint)


def _compose(text: str) -> yaml.Node | None:
    node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    return node


def _check_graph(root: yaml.Node) -> None:
    """Refuse aliases of their own ancestors, and those that expand to too much."""
    sizes: dict[yaml.Node, tuple[int, int]] = {}
    open_nodes: set[yaml.Node] = set()

    def measure(node: yaml.Node) -> tuple[int, int]:
        """Return how many items the node expands to, and how deep they nest."""
        if node in sizes:
            return sizes[node]
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        if node in open_nodes:
            raise _Stop(line, column, "an alias inside this refers to it again, without end")
        open_nodes.add(node)
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inside = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        measured = [measure(part) for part in inside]
        size = 1 + sum(count for count, _ in measured)
        depth = 1 + max((deep for _, deep in measured), default=0)
        if size > MAX_ITEMS:
            raise _Stop(line, column, f"this expands to more than {MAX_ITEMS} values")
        if depth > MAX_DEPTH + 1:
            raise _Stop(line, column, f"this is nested more than {MAX_DEPTH} deep")
        open_nodes.remove(node)
        sizes[node] = size, depth
        return size, depth

    measure(root)


def _syntax(error: yaml.MarkedYAMLError, text: str, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    lines = text.splitlines()
    start = lines[line - 1] if line <= len(lines) else ""
    indent = start[: len(start) - len(start.lstrip())]
    if "\t" in indent:
        place = indent.index("\t") + 1
        return Problem(file, line, place, "", "a tab indents this line", "YAML wants spaces")
    what = ", ".join(part for part in (error.context, error.problem) if part)
    return Problem(file, line, column, "", f"this is not YAML: {what}")


class _Builder:
    """Makes the tree of a graph of nodes; aliases and merges become plain values."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = problems

    def item(self, node: yaml.Node, loc: tuple[str | int, ...]) -> Item:
        item = Item(node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, yaml.MappingNode):
            self._tag(node, item, "map")
            item.mapping = {}
            for key, (key_node, value) in self._pairs(node).items():
                child = self.item(value, (*loc, key))
                child.key_line = key_node.start_mark.line + 1
                child.key_column = key_node.start_mark.column + 1
                item.mapping[key] = child
        elif isinstance(node, yaml.SequenceNode):
            self._tag(node, item, "seq")
            item.sequence = [self.item(part, (*loc, at)) for at, part in enumerate(node.value)]
        else:
            self._scalar(node, item)
        return item

    def _problem(self, node: yaml.Node, message: str, hint: str = "") -> None:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        self.problems.append(Problem(self.file, line, column, "", message, hint))

    def _tag(self, node: yaml.Node, item: Item, *allowed: str) -> bool:
        if node.tag in [_TAG + name for name in allowed]:
            return True
        tag = node.tag.replace(_TAG, "!!")
        self._problem(node, f"the tag {shown(tag)} has no place here", "leave it out")
        item.dead = True
        return False

    def _scalar(self, node: yaml.Node, item: Item) -> None:
        text = node.value
        if not self._tag(node, item, "str", "bool", "int", "float", "null"):
            return
        try:
            match node.tag.removeprefix(_TAG):
                case "bool":
                    item.value = yaml.constructor.SafeConstructor.bool_values[text.lower()]
                case "int":
                    item.value = int(text, 0)
                case "float":
                    item.value = float(text)
                case "null":
                    item.value = None
                case _:
                    item.value = text
        except (KeyError, ValueError):
            kind = node.tag.removeprefix(_TAG)
            self._problem(node, f"{shown(text)} cannot be read as {kind}")
            item.dead = True

    def _pairs(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return key: (key node, value node), with merges applied; own keys win."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value in node.value:
            if key_node.tag == _TAG + "merge":
                for key, pair in self._merge(value).items():
                    merged.setdefault(key, pair)
                continue
            if key_node.tag != _TAG + "str":
                self._odd_key(key_node)
                continue
            key = key_node.value
            if key in own:
                first = own[key][0].start_mark.line + 1
                message = f"the key {shown(key)} is here twice"
                self._problem(key_node, message, f"first in line {first}")
                continue
            own[key] = key_node, value
        return {**merged, **own}

    def _odd_key(self, node: yaml.Node) -> None:
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.ScalarNode):
            message = f"the key {shown(node.value)} is read as {kind}, not as text"
            self._problem(node, message, "put it in quotes")
        else:
            self._problem(node, f"a key must be text, not a {kind}")

    def _merge(self, node: yaml.Node) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                self._problem(part, "<< takes a mapping or a list of mappings")
                continue
            for key, pair in self._pairs(part).items():
                merged.setdefault(key, pair)
        return merged
