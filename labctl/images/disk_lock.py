"""Locks of topologies, written: each disk image that a URL names is fetched, its digest pinned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from labctl.errors import UsageError, host_error
from labctl.events import Emit, silent
from labctl.images import disk_cache, disks
from labctl.sandbox import atomic
from labctl.topology import image_lock, loader


@dataclass(frozen=True)
class Pinned:
    """A disk image in a lock."""

    url: str
    sha256: str
    fresh: bool
    """Whether it was pinned just now."""


def is_topology(word: str) -> bool:
    """Whether a word names a topology file, not an image."""
    return "/" in word or word.endswith((".yaml", ".yml"))


def lock(file: Path, *, renew: bool = False, emit: Emit = silent) -> tuple[Path, list[Pinned]]:
    """Pin the disk images of a topology that it names by a URL and no digest; return the lock.

    What the lock pins already stays as it is, unless it is to `renew`; what the topology does not
    name any more goes. The images are in the cache then. Raises `TopologyError` for a topology, or
    a lock, that is wrong, `UsageError` where there is nothing to pin, and as `disks.get_disk` does.
    """
    topology = loader.load_unlocked(file)
    assert topology.source
    path = image_lock.place(topology.source)
    wanted = image_lock.unpinned(topology)
    if not wanted:
        raise UsageError(
            f"{file} names no disk image by a URL without a digest", "there is nothing to pin"
        )
    before = {} if renew else image_lock.read(path)
    pinned = []
    for url, node in wanted.items():
        assert node.disk
        fresh = url not in before
        found = disks.fetch_unpinned(node.disk, emit=emit).facts.sha256 if fresh else before[url]
        pinned.append(Pinned(url, found, fresh))
    text = image_lock.written(file, {one.url: one.sha256 for one in pinned})
    try:
        atomic.write(path, text, atomic.public())
    except OSError as error:
        raise host_error(error, path) or UsageError(
            f"cannot write {path}: {error.strerror}",
            "copy the topology to a folder of yours, and lock it there",
        ) from None
    return path, pinned


def pull(file: Path, *, emit: Emit = silent) -> list[disk_cache.Disk]:
    """Fetch the disk images of a topology; return them as they lie in the cache.

    Raises `UsageError` where it boots none or its lock lacks one, and as `disks.get_disk` does.
    """
    topology = loader.load(file)
    images = dict.fromkeys(node.disk for node in topology.nodes.values() if node.disk)
    if not images:
        raise UsageError(
            f"the nodes of {file} boot no disk image", "labctl image build makes others"
        )
    for url in image_lock.unpinned(topology):
        raise UsageError(f"nothing says the digest of {url}", f"run: labctl image lock {file}")
    return [disks.get_disk(image, emit=emit) for image in images]
