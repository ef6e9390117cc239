"""Which kernel modules there are in an image: told by what lies in it, whoever built it."""

from __future__ import annotations

from pathlib import Path

from labctl.images.archives import libarchive


def names(initramfs: Path) -> frozenset[str]:
    """Return the modules in an initramfs and those that its kernel has built in, as lsmod(8) names.

    Empty where it cannot be told: not an archive, or one without the list of what is built in,
    which depmod wants beside any modules.
    """
    library = libarchive()
    found: set[str] = set()
    builtin: list[str] | None = None
    try:
        with library.file_reader(str(initramfs), format_name="cpio") as archive:
            for entry in archive:
                if entry.pathname.endswith((".ko", ".ko.gz", ".ko.xz", ".ko.zst")):
                    found.add(_name(entry.pathname))
                elif entry.pathname.endswith("/modules.builtin"):
                    builtin = b"".join(entry.get_blocks()).decode(errors="replace").splitlines()
    except (library.ArchiveError, OSError):
        return frozenset()
    return frozenset() if builtin is None else frozenset(found.union(map(_name, builtin)))


def _name(path: str) -> str:
    """Return a module's name as the kernel spells it."""
    return path.rsplit("/", 1)[-1].partition(".ko")[0].replace("-", "_")
