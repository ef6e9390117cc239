"""Images: a kernel and an initramfs made from pinned Debian packages, cached by their content."""

from labctl.images.assemble import ListedImage, build, get, list_images, lock, remove
from labctl.images.cache import Image

CMDLINE = (
    "console=ttyS0 quiet net.ifnames=0 panic=-1 tsc=reliable no_timer_check mitigations=off"
    " random.trust_cpu=on cryptomgr.notests"
)
"""Kernel command line for a guest of these images; `labctl=…` (docs/images.md) goes after it."""

__all__ = ["CMDLINE", "Image", "ListedImage", "build", "get", "list_images", "lock", "remove"]
