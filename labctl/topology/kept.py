"""Topologies that were read before: what was found good once need not be checked again.

Reading takes YAML and pydantic, whose import alone is a third of the time until `up` makes its
first link. A resolved topology is kept in the user's cache under the digest of all it comes from:
the file's bytes, its path, and the code that read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import sys
import tempfile
from pathlib import Path

from labctl.topology.model import Topology
from labctl.world import paths

MOST = 100
"""How many are kept, those used longest ago go first."""


def load(path: Path) -> Topology:
    """Return the topology of a file as `reading.load` does, which it leaves alone where it can.

    One that names files of its own is read each time, for they must be there. Raises as
    `reading.load` does.
    """
    entry = _entry(path)
    if entry is not None:
        # Whatever is wrong with an entry, the file itself is there.
        with contextlib.suppress(Exception):
            known = pickle.loads(entry.read_bytes())
            if isinstance(known, Topology):
                entry.touch()
                return known
    from labctl.topology import reading

    topology = reading.load(path)
    files = [file for node in topology.nodes.values() for file in (node.kernel, node.initramfs)]
    if entry is not None and not any(files):
        with contextlib.suppress(OSError):
            _keep(entry, topology)
    return topology


def _entry(path: Path) -> Path | None:
    """Return where a file's topology is kept, if it is; None for a file that cannot be read."""
    digest = hashlib.sha256()
    try:
        digest.update(path.read_bytes() if path.is_file() else b"")
        for file in sorted(Path(__file__).parent.glob("*.py")):
            facts = file.stat()
            digest.update(f"{file} {facts.st_mtime_ns} {facts.st_size}\n".encode())
    except (OSError, ValueError):
        return None
    digest.update(f"{path.absolute()}\n{sys.version}".encode(errors="surrogateescape"))
    return paths.cache() / "topologies" / digest.hexdigest()


def _keep(entry: Path, topology: Topology) -> None:
    """Write an entry whole or not at all, and remove the oldest beyond `MOST`."""
    entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=entry.parent, delete=False) as part:
        pickle.dump(topology, part)
    Path(part.name).rename(entry)
    by_age = sorted(entry.parent.iterdir(), key=lambda one: one.stat().st_mtime)
    for old in by_age[:-MOST]:
        old.unlink(missing_ok=True)
