"""The lock of a topology: the digests of disk images that it names by URL, in a file beside it.

`labctl image lock FILE` writes it (`labctl.images.disk_lock`). It does not end in `.yaml`, so that
nothing takes it for a topology.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError

from labctl.errors import UsageError, shown
from labctl.topology import fields, model, text
from labctl.topology.disk_schema import Sha256, Url
from labctl.topology.problems import Problem, TopologyError
from labctl.topology.tree import MAX_BYTES, Report

SUFFIX = ".lock"


class _Pinned(BaseModel):
    model_config = fields.STRICT

    url: Url
    sha256: Sha256


class _Lock(BaseModel):
    model_config = fields.STRICT

    images: list[_Pinned]


def place(source: Path) -> Path:
    """Return where the lock of a topology file lies, or will lie."""
    return source.with_suffix(SUFFIX)


def read(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each URL that a lock pins; none where there is no file.

    Raises `TopologyError` for what is no lock, `UsageError` where it cannot be read.
    """
    hint = "restore it; or remove it, and run: labctl image lock FILE"
    try:
        with path.open("rb") as stream:
            content = text.decode(stream.read(MAX_BYTES + 1))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint) from None
    except text.NotTextError as error:
        place = Problem(str(path), error.line, error.column, "", str(error), hint)
        raise TopologyError([place]) from None
    root, problems = text.read(content, str(path))
    if problems or root is None:
        raise TopologyError(problems)
    try:
        lock = _Lock.model_validate(root.plain())
    except ValidationError as error:
        report = Report(root, str(path))
        for detail in error.errors(include_url=False):
            what = ".".join(map(str, detail["loc"][-1:])) or "the lock"
            report.add(detail["loc"], f"{shown(what)}: {detail['msg']}", hint)
        raise TopologyError(report.problems) from None
    return {one.url: one.sha256 for one in lock.images}


def written(source: Path, pins: Mapping[str, str]) -> str:
    """Return the text of a lock that pins the SHA-256 of each URL."""
    images = [{"url": url, "sha256": pins[url]} for url in sorted(pins)]
    return (
        f"# Disk images of {source.name}, pinned; written by: labctl image lock {source.name}\n"
        + yaml.safe_dump({"images": images}, sort_keys=False, width=10_000)
    )


def unpinned(topology: model.Topology) -> dict[str, model.Node]:
    """Return the URLs of images that have no digest, each with a node that boots it."""
    found: dict[str, model.Node] = {}
    for node in topology.nodes.values():
        if node.disk and node.disk.url and not node.disk.sha256:
            found.setdefault(node.disk.url, node)
    return found


def applied(topology: model.Topology) -> model.Topology:
    """Return a topology with the digests of its lock, where it does not say them itself.

    Raises as `read` does.
    """
    if topology.source is None or not unpinned(topology):
        return topology
    pins = read(place(topology.source))

    def pinned(node: model.Node) -> model.Node:
        if not node.disk or node.disk.sha256 or node.disk.url not in pins:
            return node
        return dataclasses.replace(
            node, disk=dataclasses.replace(node.disk, sha256=pins[node.disk.url])
        )

    nodes = {name: pinned(node) for name, node in topology.nodes.items()}
    return dataclasses.replace(topology, nodes=nodes)
