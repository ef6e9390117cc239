"""Which ports of this host lead to ports of a lab's guests, read from the lab's directory."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labctl.network import confined
from labctl.sandbox import codec
from labctl.sandbox.base import Sandbox

FOLDER = "published"


@dataclass(frozen=True)
class Published:
    """A port of the host's, and where it leads."""

    address: str
    """Of this host, that it listens on."""
    port: int
    node: str
    to: int
    """The port in the guest."""

    @property
    def listens(self) -> str:
        """Address and port, as they are written."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else (
            f"{self.address}:{self.port}"
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"listens": self.listens, "node": self.node, "port": self.to}


def listed(directory: Path, sandbox: Sandbox) -> list[Published]:
    """Return what a lab publishes, as far as its relays run."""
    return [made for made, _ in running(directory, sandbox)]


def running(directory: Path, sandbox: Sandbox) -> list[tuple[Published, int]]:
    """Return the same, each with the pid of its relay inside the lab."""
    found = []
    for file in sorted((directory / FOLDER).glob("*.json")):
        noted = confined.noted(file.with_suffix(".pid"))
        with contextlib.suppress(OSError, codec.CodecError):
            made: Published = codec.loads(file.read_bytes(), Published)
            if noted and noted.is_it(sandbox.process(noted.pid)):
                found.append((made, noted.pid))
    return found
