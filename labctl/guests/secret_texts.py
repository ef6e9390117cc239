"""Texts that a topology names and does not hold, kept in a lab's folder for its user alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from labctl.errors import UsageError
from labctl.sandbox import atomic
from labctl.topology.login import Secret
from labctl.topology.model import Topology

FOLDER = "login"
"""Of a lab."""
_ALL = "secrets"
_LONGEST = 1000
"""Characters."""


def read(topology: Topology) -> dict[str, str]:
    """Return the secrets of a topology by their keys.

    Raises `UsageError` for a variable that is not set, and for a file that holds none.
    """
    found = {}
    for owner, one in _named(topology):
        text = os.environ.get(one.env) if one.env else _line(one.file, owner)
        if text is None:
            raise UsageError(
                f"the environment variable {one.env} is not set, which {owner} needs",
                f"set it where labctl up runs: read -rs {one.env}; export {one.env}",
            )
        if not text or len(text) > _LONGEST or not text.isprintable():
            what = f"the variable {one.env}" if one.env else str(one.file)
            raise UsageError(
                f"{what} does not hold what {owner} needs",
                f"it must be one line of 1 to {_LONGEST} printable characters",
            )
        found[one.key] = text
    return found


def keep(directory: Path, topology: Topology, secrets: Mapping[str, str]) -> None:
    """Keep secrets in a lab's folder, each password also in a file of its own; raises `OSError`."""
    if not secrets:
        return
    folder = directory / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    atomic.write(folder / _ALL, json.dumps(dict(secrets)))
    for node in topology.nodes.values():
        if node.login and node.login.password:
            atomic.write(password_file(directory, node.name), secrets[node.login.password.key])


def kept(directory: Path) -> dict[str, str]:
    """Return the secrets in a lab's folder, by their keys; raises `OSError`."""
    place = directory / FOLDER / _ALL
    return dict(json.loads(place.read_text())) if place.exists() else {}


def password_file(directory: Path, node: str) -> Path:
    """Return where the password of a node's login is, if it has one."""
    return directory / FOLDER / f"{node}.password"


def _named(topology: Topology) -> Iterator[tuple[str, Secret]]:
    for node in topology.nodes.values():
        if node.login and node.login.password:
            yield f"the login of {node.name}", node.login.password
        for step in node.console:
            if step.secret:
                yield f"the console of {node.name}", step.secret


def _line(file: Path | None, owner: str) -> str:
    assert file
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.readline(_LONGEST + 2).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as wrong:
        why = wrong.strerror if isinstance(wrong, OSError) else "it is no text"
        raise UsageError(f"cannot read {file}, which {owner} needs: {why}") from None
