"""A QEMU guest that boots a disk image by itself, and is configured by cloud-init."""

from __future__ import annotations

from labctl.kinds.guests.base import GuestKind


class Disk(GuestKind):
    """QEMU boots an overlay of the image; the node's configuration is a disk beside it."""

    name = "disk"
    summary = "a QEMU guest that boots a disk image, configured by cloud-init"
    boots_disk = True
    image = "debian"
    image_with_all_nics = "an image with a generic kernel"
    cmdline = ""
    """None: its boot loader has one of its own."""
    memory = 512
    built_by = "labctl.lab.disk_guests:build"
    started_by = "labctl.lab.disk_guests:DiskGuests"
    ready = ""
    """Anybody's image does not say it."""
