"""Kernels in place of an image's own: the word of one of Debian's, or a file.

An image with a kernel of a release is called `micro@debian-13`; it is made by `labctl.images`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from labctl.errors import UsageError
from labctl.kinds.guests.base import GuestKind
from labctl.topology.model import Node, Topology

_RELEASE = re.compile(r"debian-(?:[0-9]{1,3}|sid)")
_FILE = "file:"
_AT = "@"
MORE_MEMORY = 32
"""MiB that a guest has more by default with a kernel of a release: the newest takes as much, and
the same experiment with an older one is to be the same in all else."""


def release(text: str) -> str:
    """Return the release whose kernel a text names, such as `debian-13`; empty for a file."""
    return text if _RELEASE.fullmatch(text) else ""


def path(text: str) -> str:
    """Return the path that a text says which names no release, with `file:` before it or not."""
    return text.removeprefix(_FILE)


def image(name: str, text: str) -> str:
    """Return the name of an image with the kernel of a release; with its own for an empty text."""
    own = name.partition(_AT)[0]
    return f"{own}{_AT}{text}" if text else own


def memory(kind: GuestKind, text: str) -> int:
    """Return the MiB that a guest has by default with the kernel of a release, or with its own."""
    return kind.memory + (MORE_MEMORY if text and not kind.boots_disk else 0)


def of(node: Node) -> str:
    """Return the release whose kernel a node boots; empty where it boots another."""
    return node.image.partition(_AT)[2]


def _takes(node: Node, file: bool) -> bool:
    """Whether a node can boot another kernel; what is on a disk can be one of a release alone."""
    kind = node.guest_kind
    return bool(node.image) and kind.is_endpoint and not (file and kind.boots_disk)


def with_kernel(topology: Topology, text: str) -> Topology:
    """Return a copy in which every guest that can boots this kernel: a release's, or a file.

    Xen hosts, and guests that boot a disk image of the user's, keep their own. Raises `UsageError`
    where there is no such file, or nobody to boot it.
    """
    name = release(text)
    file = None if name else Path(path(text)).expanduser().absolute()
    if file and not file.is_file():
        raise UsageError(
            f"there is no kernel {text}", "write a release, such as debian-13, or a path: ./bzImage"
        )
    nodes = {
        node.name: replace(
            node,
            kernel=file,
            image=image(node.image, name),
            memory=max(node.memory, memory(node.guest_kind, name)),
        )
        for node in topology.nodes.values()
        if _takes(node, file is not None)
    }
    if not nodes:
        raise UsageError(
            f"no node of {topology.name} can boot another kernel",
            "a kernel is for guests that boot images of labctl's, and for no Xen host",
        )
    return replace(topology, nodes={**topology.nodes, **nodes})
