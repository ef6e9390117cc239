"""What runs the guests of a lab, and whose machine it is: `of` tells by the URI of `--connect`.

Nothing else looks at a URI to tell one from another. It is quick to import: `up` asks before
anything else (docs/decisions.md, 15).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labctl.backends.base import Backend


def is_embedded(uri: str) -> bool:
    """Whether a lab is to have namespaces of its own, where labctl's own libvirt runs the guests.

    `of` knows more; this needs no imports.
    """
    return not uri


def of(uri: str) -> Backend:
    """Return the backend that a `--connect` URI names; without a URI it is labctl's own.

    What is wrong with a URI is told when a topology is checked for it (`Backend.check`).
    """
    if is_embedded(uri):
        from labctl.backends.embedded import Embedded

        return Embedded(uri)
    if uri.startswith("xen"):
        from labctl.backends.xen_remote import XenRemote

        return XenRemote(uri)
    from labctl.backends.system_libvirt import SystemLibvirt

    return SystemLibvirt(uri)
