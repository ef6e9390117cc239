"""Guests that go on from a template instead of booting. Runs in the agent of a sandbox."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.errors import GuestError, LabctlError
from labctl.events import Emit
from labctl.guests import driver, launch, monitor, saved
from labctl.guests.ready import Lap
from labctl.guests.spec import Accel, Guest, Saved
from labctl.sandbox.lazy_import import Late
from labctl.sandbox.process import last_lines
from labctl.sandbox.remote import remote

if TYPE_CHECKING:
    import libvirt
else:
    libvirt = Late("libvirt")

SEED = 64
"""Random bytes for a clone: Linux's generator has a key of 32 (crng_reseed, drivers/char/random.c).
"""
WAKE_SECONDS = 30.0
"""For a guest to take the first of what it is told; the rest waits in the socket."""


@dataclass(frozen=True)
class Doubt:
    """Why a guest is no clone."""

    words: str
    template: bool
    """Whether it is the template's fault, which is then to be made anew."""


class _LoadError(GuestError):
    """A guest does not go on from a template."""


OF_TEMPLATE = (_LoadError, saved.DamagedError)
"""Errors that are its fault."""


@remote
def start(
    hypervisor: driver.Hypervisor,
    guests: Sequence[Guest],
    accel: Accel,
    lab: str,
    directory: Path,
    emit: Emit,
) -> dict[str, Doubt]:
    """Start guests that are clones, as `driver.start` does; return why some are not, by name.

    Of those nothing is left, and they can be booted. Raises `GuestError` where libvirt cannot be
    had, and nothing for what a single guest meets.
    """
    root = hypervisor.root
    assert root, "it is a driver of ours"
    doubts: dict[str, Doubt] = {}
    by_template: dict[Saved, list[Guest]] = {}
    for guest in guests:
        assert guest.clone, "it is a clone"
        by_template.setdefault(guest.clone.template, []).append(guest)
    with contextlib.ExitStack() as stack:
        files: dict[Saved, saved.Copies] = {}
        for template, its in by_template.items():
            try:
                files[template] = stack.enter_context(saved.opened(template))
            except (LabctlError, OSError) as error:
                doubts |= {guest.name: Doubt(_words(error), template=True) for guest in its}
        connection = driver.connect(hypervisor)

        def make(guest: Guest, lap: Lap) -> Callable[[], bool]:
            assert guest.clone
            copies = files[guest.clone.template]
            guest.log.touch(mode=0o600)
            try:
                domain = launch.paused(connection, root, guest, accel, lab, copies.memory)
            except Exception:
                copies.check()  # QEMU does not start with a memory of another size
                raise
            lap("created")
            copies.check()
            try:
                monitor.load(domain, copies.state)
            except (GuestError, libvirt.libvirtError) as error:
                raise _LoadError(f"its template cannot be loaded: {_words(error)}") from None
            domain.resume()
            stack.callback(_wake(guest).close)
            lap("loaded")
            return lambda: driver.is_active(domain)

        def failed(guest: Guest, error: Exception) -> None:
            driver.stop(hypervisor, guest.domain)
            doubts[guest.name] = Doubt(_words(error), isinstance(error, OF_TEMPLATE))

        able = [guest for guest in guests if guest.name not in doubts]
        driver.boot(able, make, directory, emit, failed)
    return doubts


def _words(error: Exception) -> str:
    if isinstance(error, LabctlError):
        return error.message
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return last_lines(str(error))


def _wake(guest: Guest) -> socket.socket:
    """Tell a guest that it is another one now: the time, random bytes and its configuration.

    It hears that on its console and shows none of it. Returns the line, of which QEMU would drop
    what it has not read yet if it were closed. Raises `OSError`.
    """
    assert guest.clone, "it is a clone"
    config = guest.clone.config.encode()
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        line.connect(str(guest.console))
        line.settimeout(WAKE_SECONDS)
        seconds, rest = divmod(time.time_ns(), 10**9)
        seed = os.urandom(SEED).hex().encode()
        line.sendall(b"labctl %d %d %b %d\n" % (seconds, rest, seed, len(config)) + config)
    except BaseException:
        line.close()
        raise
    return line
