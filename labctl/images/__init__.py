"""Images: a kernel and an initramfs made from pinned Debian packages, cached by their content."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from labctl.images.cache import Image
from labctl.kinds.guests.micro import Micro

if TYPE_CHECKING:
    from labctl.images.assemble import ListedImage, build, list_images, lock, remove
    from labctl.images.disks import get_disk
    from labctl.images.lookup import get

CMDLINE = Micro.cmdline
"""Kernel command line for a guest of these images."""

__all__ = [
    "CMDLINE",
    "Image",
    "ListedImage",
    "build",
    "get",
    "get_disk",
    "list_images",
    "lock",
    "remove",
]
_MODULES = {"get": "lookup", "get_disk": "disks"}


def __getattr__(name: str) -> object:
    """Import on first use: most of labctl only knows what an image is."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES.get(name, "assemble")
    return getattr(import_module(f"{__name__}.{module}"), name)
