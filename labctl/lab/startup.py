"""What a topology gives nodes when they have started: files are written, commands run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from labctl.errors import GuestError, UsageError
from labctl.events import Emit, Event
from labctl.lab.node import Node
from labctl.sandbox.process import CommandError
from labctl.topology.startup import MOST_SOURCE, StartFile

if TYPE_CHECKING:
    from labctl.lab.lab import Lab

AT_ONCE = 16
"""Nodes that are seen to beside each other."""


def give(lab: Lab, names: Sequence[str], emit: Emit) -> None:
    """Write the files of nodes and run their commands, in each one after the other.

    Raises `UsageError` for a file that cannot be read, `GuestError` for one that a node does not
    take, and for a command that fails or does not end in a minute.
    """
    wanted = [lab.node(name) for name in names]
    with ThreadPoolExecutor(min(AT_ONCE, len(wanted))) as pool:
        for done in [pool.submit(_give, node, emit) for node in wanted]:
            done.result()


def _give(node: Node, emit: Emit) -> None:
    emit(Event("startup", node.name, "start"))
    try:
        for file in node.model.files:
            _write(node, file)
        for number, command in enumerate(node.model.exec):
            _run(node, number, command)
    except BaseException as wrong:
        emit(Event("startup", node.name, "failed", str(wrong)))
        raise
    emit(Event("startup", node.name, "done"))


def _write(node: Node, file: StartFile) -> None:
    """Write a file under another name first: what reads it there finds all of it or nothing."""
    data = _read(file) if file.source else file.text.encode()
    path = shlex.quote(file.path)
    line = (
        f'umask 077 && mkdir -p -m 755 "$(dirname {path})" && cat >{path}.labctl && '
        f"chmod {file.mode:o} {path}.labctl && mv -f {path}.labctl {path}"
    )
    try:
        node.run(line, stdin=data)
    except CommandError as wrong:
        said = wrong.message.rpartition(": ")[2]
        raise GuestError(
            f"{node.name} does not take the file {file.path}: {said}",
            f"see files of {node.name} in the topology",
        ) from None


def _read(file: StartFile) -> bytes:
    assert file.source
    try:
        with file.source.open("rb") as opened:
            data = opened.read(MOST_SOURCE + 1)
    except OSError as wrong:
        raise UsageError(f"{file.source} cannot be read: {wrong.strerror}") from None
    if len(data) > MOST_SOURCE:
        raise UsageError(
            f"{file.source} is larger than {MOST_SOURCE >> 20} MiB",
            "put it into an image, or copy it later: labctl cp",
        )
    return data


def _run(node: Node, number: int, command: str) -> None:
    try:
        node.run(command)
    except CommandError as wrong:
        raise GuestError(
            wrong.message, f"see exec[{number}] of {node.name} in the topology"
        ) from None
