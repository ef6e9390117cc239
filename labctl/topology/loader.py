"""Reading a topology: from a file, from text, or from a mapping; all problems in one go."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from labctl.errors import UsageError
from labctl.topology import image_lock, model, ranges, segments, text
from labctl.topology.check import check
from labctl.topology.problems import Problem, TopologyError
from labctl.topology.resolve import resolve
from labctl.topology.tree import MAX_BYTES, Item, Report, from_python
from labctl.topology.validation import shaped


def load(path: Path) -> model.Topology:
    """Read a topology file, and its lock where it names disk images that have no digest in it.

    Raises `TopologyError` with every problem of either, or `UsageError` where one cannot be read.
    """
    return image_lock.applied(load_unlocked(path))


def load_unlocked(path: Path) -> model.Topology:
    """Read a topology file, whatever its lock says; raises likewise."""
    file = str(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{file} is not a file", "name a topology file")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"cannot read {file}: {why}", "name a topology file") from None
    if len(data) > MAX_BYTES:
        raise TopologyError([Problem(file, 1, 1, "", "the file is larger than 1 MiB")])
    try:
        content = text.decode(data)
    except text.NotTextError as error:
        raise TopologyError([Problem(file, error.line, error.column, "", str(error))]) from None
    source = path.absolute()
    return _from_text(content, file, path.stem, source.parent, source)


def loads(content: str, name: str) -> model.Topology:
    """Read a topology from YAML text.

    `name` stands for the file in errors and serves as the topology's name where the text gives
    none; paths in it are relative to the working directory. Raises `TopologyError`.
    """
    return _from_text(content, name, Path(name).stem, Path(), None)


def from_mapping(
    mapping: Mapping[str, Any], name: str = "topology", base: Path | None = None
) -> model.Topology:
    """Make a topology of a mapping of the same shape as a file.

    Addresses and paths may also be objects of `ipaddress` and `pathlib`, offloads booleans or `on`
    and `off`. `name` serves where the mapping gives none; paths are relative to `base` (the
    working directory by default). Raises `TopologyError`; its problems have no lines.
    """
    problems: list[Problem] = []
    root = from_python(mapping, name, problems)
    return _from_tree(root, problems, name, name, base or Path(), None)


def _from_text(
    content: str, file: str, name: str, base: Path, source: Path | None
) -> model.Topology:
    root, problems = text.read(content, file)
    if root is None:
        raise TopologyError(problems)
    return _from_tree(root, problems, file, name, base, source)


def _from_tree(
    root: Item, problems: list[Problem], file: str, name: str, base: Path, source: Path | None
) -> model.Topology:
    report = Report(root, file)
    ranges.expand(root, report)
    written = shaped(root, report)
    if written is not None:
        planned = segments.plan(written, report)
        routers = segments.router_options(written, report)
        topology = resolve(written, name, base, source, planned, routers)
        check(topology, written, base, report)
        if not problems and not report.problems:
            return topology
    raise TopologyError([*problems, *_once(report.problems)])


def _once(problems: list[Problem]) -> Iterator[Problem]:
    """Leave out what was said of that place before: the nodes of a range have one."""
    said = set()
    for one in problems:
        known = (one.line, one.column, one.message)
        if not one.line or known not in said:
            yield one
        said.add(known)
