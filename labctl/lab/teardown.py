"""Take a lab down by its directory alone, whatever state it is in."""

from __future__ import annotations

from pathlib import Path

from labctl import backends
from labctl.backends.shared_host import end_connections
from labctl.errors import LabctlError
from labctl.lab import state
from labctl.sandbox import host, namespaces
from labctl.sandbox.host import Host


def end(folder: Path) -> None:
    """End the lab of a directory and remove the directory.

    Works on a lab that is coming up, damaged or half gone, whatever its state says. Of one on a
    system's libvirt, or on a real Xen host, only the state knows what to take away: where that
    cannot be read, `LabctlError` is raised and the directory stays.
    """
    if not (folder / host.MARKER).exists():
        namespaces.end(folder)
        return
    sandbox = Host.attach(folder)
    known = None
    try:
        known = state.load(folder)
    except state.NotUpError:
        pass  # nothing was made yet
    except LabctlError as wrong:
        raise LabctlError(
            f"what lab {folder.name} has made here cannot be told: {wrong.message}",
            "take it down by the labctl that made it; or remove its guests, links and namespaces "
            f"yourself, and then: rm -r {folder}",
        ) from None
    try:
        if known:
            backends.of(known.uri).tear_down(sandbox, known)
        else:
            end_connections(sandbox)
    except BaseException:
        sandbox.close()  # the directory stays: it knows what is left for the next try
        raise
    sandbox.end()
