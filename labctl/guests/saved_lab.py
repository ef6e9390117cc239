"""Guests of a lab that are saved as they run, and go on from that. Runs in the agent of a sandbox.

Unlike a template such a guest is saved whole, memory and devices in one stream of QEMU's migration,
and goes on as itself: with its processes, connections and keys. All are stopped before the first is
saved and go on after the last, so that none has heard what another is going to say.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.errors import DeadlineError, GuestError
from labctl.events import Emit, Event
from labctl.guests import driver, launch, monitor, saved, template
from labctl.guests.domain import EMULATOR, Memory, domain_xml
from labctl.guests.ready import READY_SECONDS, Lap
from labctl.guests.spec import Accel, Guest
from labctl.sandbox.lazy_import import Late
from labctl.sandbox.process import last_lines
from labctl.sandbox.remote import remote

if TYPE_CHECKING:
    import libvirt
else:
    libvirt = Late("libvirt")

VERSION = 1
"""Of saved guests: raised when those of before could not go on any more."""
SECONDS_PER_GIB = 120.0
"""For the memory of a guest to be written or read, on a slow disk."""
LEAST_SECONDS = 120.0
_saving = threading.Lock()
_given_up = threading.Event()


@dataclass(frozen=True)
class Running:
    """A guest that runs, and where its state goes."""

    name: str
    domain: str
    memory: int
    """MiB."""
    state: Path
    """A new file."""
    disks: dict[str, Path]
    """Files that it writes, each with the new one that becomes its copy."""


def _seconds(mebibytes: int) -> float:
    return LEAST_SECONDS + SECONDS_PER_GIB * mebibytes / 1024


@remote
def shape(guest: Guest, accel: Accel) -> list[str]:
    """Return all that a saved guest needs to be the same where it goes on: the machine, and QEMU.

    It is a guest that booted, or one that has `clone` set. Where it lies may differ.
    """
    nowhere = Path("file")
    plain = replace(
        guest, kernel=nowhere, initramfs=nowhere, console=nowhere, log=nowhere, incoming=False,
        config=None, drives=(),
    )  # fmt: skip
    if guest.disk:
        parts = {name: nowhere for name in ("seed", "firmware") if getattr(guest.disk, name)}
        disk = replace(guest.disk, overlay=nowhere, base=nowhere, **parts)
        plain = replace(plain, disk=replace(disk, variables=nowhere if disk.variables else None))
    memory = Memory("file", incoming=True) if guest.clone else None
    xml = domain_xml(plain, accel, "", None, memory)
    emulator = Path(EMULATOR).stat()
    cpu = template.host_cpu() if accel == "kvm" else ""
    return [
        f"saved {VERSION}", xml, str(libvirt.getVersion()),
        f"{emulator.st_size} {emulator.st_mtime_ns}", cpu,
    ]  # fmt: skip


@remote
def save(hypervisor: driver.Hypervisor, guests: Sequence[Running], emit: Emit) -> dict[str, str]:
    """Save guests, which then go on; return the digests of copied disks, by file name.

    Raises `GuestError` or `DeadlineError` where one cannot be saved, `OSError`; all go on then too.
    """
    connection = driver.connect(hypervisor)
    digests: dict[str, str] = {}
    with _saving, _stopped(connection, guests) as domains:
        for guest in guests:
            emit(Event("save", guest.name, "start"))
            with _words(f"{guest.name} cannot be saved"):
                _save(domains[guest.name], guest)
                for source, to in guest.disks.items():
                    _check()
                    digests[to.name] = _copied(Path(source), to)
            emit(Event("save", guest.name, "done"))
    return digests


@remote
def give_up() -> None:
    """Let a `save` that goes on in this process end, and wait until its guests go on."""
    _given_up.set()
    with _saving:
        _given_up.clear()


def _check() -> None:
    if _given_up.is_set():
        raise GuestError("it was interrupted")


@contextlib.contextmanager
def _stopped(connection: Any, guests: Sequence[Running]) -> Iterator[dict[str, Any]]:
    """Give the domains of guests, which are all stopped for the length of a `with` block."""
    found: dict[str, Any] = {}
    try:
        for guest in guests:
            _check()
            with _words(f"{guest.name} cannot be stopped"):
                domain = connection.lookupByName(guest.domain)
                domain.suspend()
                found[guest.name] = domain
        yield found
    finally:
        for name, domain in found.items():
            with _words(f"{name} does not go on"):
                domain.resume()


@contextlib.contextmanager
def _words(what: str) -> Iterator[None]:
    """Raise libvirt's errors and QEMU's as `GuestError`, after what they mean."""
    try:
        yield
    except libvirt.libvirtError as reason:
        raise GuestError(f"{what}: {last_lines(reason.get_error_message())}") from None
    except DeadlineError:
        raise
    except GuestError as reason:
        raise GuestError(f"{what}: {reason.message}", reason.hint) from None


def _save(domain: Any, guest: Running) -> None:
    file = os.open(guest.state, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        monitor.save(domain, file, whole=True, seconds=_seconds(guest.memory), check=_check)
        os.fsync(file)
    finally:
        os.close(file)


def _copied(source: Path, to: Path) -> str:
    file = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return saved.keep(file, to)
    finally:
        os.close(file)


@remote
def copy(source: Path, to: Path) -> str:
    """Copy a file to a new private one; return its digest. Raises `OSError`."""
    return _copied(source, to)


@remote
def start(
    hypervisor: driver.Hypervisor,
    guests: Sequence[Guest],
    states: Mapping[str, Path],
    accel: Accel,
    lab: str,
    directory: Path,
    emit: Emit,
) -> dict[str, float]:
    """Let guests go on from their states, all at one time, until a command ran in each.

    Returns the seconds that took each after that. Raises as `driver.start` does.
    """
    assert hypervisor.root, "it is a driver of ours"
    connection = driver.connect(hypervisor)

    def loaded(guest: Guest) -> Any:
        emit(Event("restore", guest.name, "start"))
        with _words(f"{guest.name} does not go on from its saved state"):
            domain = _loaded(connection, hypervisor, guest, states[guest.name], accel, lab)
        emit(Event("restore", guest.name, "done"))
        return domain

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        domains = dict(zip((guest.name for guest in guests), pool.map(loaded, guests), strict=True))
    for name, domain in domains.items():
        with _words(f"{name} does not go on"):
            domain.resume()
    # Its clock stood still; where nobody may set it, it goes on from there.
    clock = f"date -s @{int(time.time())} >/dev/null 2>&1 || :"

    def make(guest: Guest, _lap: Lap) -> Callable[[], bool]:
        return lambda: driver.is_active(domains[guest.name])

    awake = [
        replace(one, clone=None, ready="", steps=(), settling=clock, patience=READY_SECONDS)
        for one in guests
    ]
    return driver.boot(awake, make, directory, emit)


def _loaded(
    connection: Any,
    hypervisor: driver.Hypervisor,
    guest: Guest,
    state: Path,
    accel: Accel,
    lab: str,
) -> Any:
    assert hypervisor.root, "it is a driver of ours"
    guest.log.touch(mode=0o600)
    file = os.open(state, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    # A clone has its memory in a file, which is of that size whatever is in it.
    memory = saved.new_file("memory", guest.memory << 20) if guest.clone else None
    try:
        domain = launch.paused(connection, hypervisor.root, guest, accel, lab, memory)
        monitor.load(domain, file, whole=True, seconds=_seconds(guest.memory))
    finally:
        os.close(file)
        if memory is not None:
            os.close(memory)
    return domain
