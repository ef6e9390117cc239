"""Guests by libvirt-python. Runs in the agent of a sandbox; each function is one call to it.

By default libvirt's QEMU driver runs embedded in the agent (`qemu:///embed?root=DIR`): no daemon,
no system configuration, one root a lab. Guests outlive the agent; a later one opens the same root.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from labctl.errors import DeadlineError, GuestError, HostError
from labctl.events import Emit, Event
from labctl.guests import launch, ready
from labctl.guests.domain import EMULATOR, domain_xml
from labctl.guests.ready import Lap
from labctl.guests.spec import Accel, Guest
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.lazy_import import Late
from labctl.sandbox.process import last_lines
from labctl.sandbox.remote import remote

if TYPE_CHECKING:
    import libvirt
else:
    libvirt = Late("libvirt")

QEMU_CONF = """\
user = "{user}"
group = "{user}"
stdio_handler = "file"
cgroup_controllers = []
namespaces = []
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
hugetlbfs_mount = []
"""
"""Without its last line libvirt makes a folder in every hugetlbfs of the host, or refuses to start
where it may not: systemd mounts one. An empty text is an error; an empty list means none."""

SAME_USER = "+4294967295"
"""`(uid_t) -1`, by which libvirt changes neither user nor groups of what it starts.

It sets the groups of QEMU to those that its user has by name. In a user namespace that is root, who
has none: the user's own, such as `kvm`, would be lost, and /dev/kvm with it.
"""

LOCK_SECONDS = 60.0
LOOK_SECONDS = 0.1
STAGES = "stages"
"""The stage of events that tell, for one guest, `STAGE=SECONDS` of each stage of its start."""
PROGRAMS = "/usr/bin:/bin"
"""Where an embedded driver finds programs: not tc, which it would start for each NIC, from a thread
that is confined and has no right to do what tc is to do."""
_loop_started = threading.Event()
_opening = threading.Lock()
_connections: dict[str, Any] = {}


@dataclass(frozen=True)
class Hypervisor:
    """How to reach libvirt: the root of an embedded driver, or the URI of another."""

    root: Path | None
    """None where the driver is not ours."""
    uri: str = ""
    capabilities: Path | None = None
    """Where an embedded driver may keep what it learnt of QEMU, shared by all labs of a user."""


def _run_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _start_event_loop() -> None:
    """Register and run libvirt's event loop: it must be there before the first connection."""
    if _loop_started.is_set():
        return
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors are exceptions
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_run_event_loop, daemon=True, name="libvirt-events").start()
    _loop_started.set()


@contextlib.contextmanager
def _one_cpu() -> Iterator[None]:
    """Stay on one CPU: libvirt drops its cached capabilities when CPUID seems to have changed."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _prepare(root: Path, capabilities: Path | None) -> None:
    # libvirt makes the others with the user's umask. A QEMU that is another user passes these to
    # read its own folder; the lab's directory above keeps everybody else out.
    for folder in (root, root / "etc", root / "lib", root / "lib" / "qemu"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
    user = SAME_USER if launch.in_user_namespace() else "root"
    (root / "etc" / "qemu.conf").write_text(QEMU_CONF.format(user=user))
    cache = root / "cache"
    if capabilities and not cache.exists():
        with contextlib.suppress(OSError):  # libvirt makes a cache of its own beside it then
            capabilities.mkdir(parents=True, exist_ok=True)
            if os.access(capabilities, os.W_OK):
                cache.symlink_to(capabilities)


def _lock(root: Path) -> int:
    """Wait until no other process drives this root; return the lock, which this process keeps."""
    handle = os.open(root / "driver.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = Deadline(LOCK_SECONDS, "waiting for another labctl to release libvirt")
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                deadline.pause(0.05)
            except DeadlineError:
                os.close(handle)
                raise
        else:
            return handle


def connect(hypervisor: Hypervisor) -> Any:
    """Return this process's connection, opened when first needed.

    Raises `HostError` with libvirt's own words when it cannot be opened.
    """
    root = hypervisor.root
    address = f"qemu:///embed?root={root}" if root else hypervisor.uri
    with _opening:
        if address in _connections and _connections[address].isAlive():
            return _connections[address]
        _start_event_loop()
        lock = -1
        if root:
            _prepare(root, hypervisor.capabilities)
            os.environ["PATH"] = PROGRAMS  # of this process; what it runs itself has its own
            lock = _lock(root)
        try:
            with _one_cpu():
                connection = libvirt.open(address)
                if root:
                    _learn_of_qemu(connection)
        except libvirt.libvirtError as reason:
            if lock >= 0:
                os.close(lock)  # or the next try would wait for this one
            raise HostError(
                f"libvirt cannot open {address}: {reason.get_error_message()}", "run: labctl doctor"
            ) from None
        _connections[address] = connection
        return connection


def _learn_of_qemu(connection: Any) -> None:
    """Let libvirt read, or find out, what QEMU can do; what starts a guest does not see the cache.

    Of the one QEMU that is started: asked for a version, libvirt would do so with each that there
    is for this host, as qemu-system-i386 is. Whoever needs an answer that is missing hears why.
    """
    with contextlib.suppress(libvirt.libvirtError):
        connection.getDomainCapabilities(EMULATOR, "x86_64", "pc", "qemu")


@remote
def open_early(hypervisor: Hypervisor) -> None:
    """Open this process's connection before it is needed; raises as `connect` does."""
    connect(hypervisor)


@remote
def versions(hypervisor: Hypervisor) -> dict[str, str]:
    """Return the versions of libvirt and of the hypervisor it drives, as `1.2.3`."""

    def dotted(number: int) -> str:
        return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"

    connection = connect(hypervisor)
    return {"libvirt": dotted(connection.getLibVersion()), "qemu": dotted(connection.getVersion())}


@remote
def qemu_user(hypervisor: Hypervisor) -> tuple[int, int]:
    """Return the uid and gid that a system's libvirt runs QEMU as (its capabilities' `dac`).

    Raises `HostError` where it does not tell.
    """
    text = connect(hypervisor).getCapabilities()
    for model in ElementTree.fromstring(text).findall("host/secmodel"):
        if model.findtext("model") == "dac":
            label = re.fullmatch(r"\+(\d+):\+(\d+)", model.findtext("baselabel") or "")
            if label:
                return int(label[1]), int(label[2])
    raise HostError(
        f"libvirt at {hypervisor.uri} does not tell which user runs its guests",
        "leave --connect away: labs of your own need no system libvirt",
    )


@remote
def start(
    hypervisor: Hypervisor,
    guests: Sequence[Guest],
    accel: Accel,
    lab: str,
    directory: Path,
    emit: Emit,
) -> dict[str, float]:
    """Start guests, at most as many at once as there are cores, until each is ready.

    Ready means that a command ran in the guest. Returns the seconds each took. Raises `GuestError`
    or `DeadlineError` with the tail of the console when one dies or never gets ready.
    """
    connect(hypervisor)

    def make(guest: Guest, lap: Lap) -> Callable[[], bool]:
        domain = create(hypervisor, guest, accel, lab)
        lap("created")
        return lambda: is_active(domain)

    return boot(guests, make, directory, emit)


def boot(
    guests: Sequence[Guest],
    make: Callable[[Guest, Lap], Callable[[], bool]],
    directory: Path,
    emit: Emit,
    failed: Callable[[Guest, Exception], None] | None = None,
) -> dict[str, float]:
    """Start guests by `make`, which returns what tells whether the guest runs; see `start`.

    How long each stage of a guest took is told by an event, `STAGES`. With `failed` a guest that
    does not get ready is left to that, and the others go on.
    """
    give_up = threading.Event()

    def one(guest: Guest) -> float:
        begun = time.monotonic()
        laps: dict[str, float] = {}

        def lap(stage: str) -> None:
            since = begun + sum(laps.values())
            laps[stage] = laps.get(stage, 0.0) + time.monotonic() - since

        def tell(words: str) -> None:
            emit(Event("boot", guest.name, "progress", words))

        emit(Event("boot", guest.name, "start"))
        try:
            ready.wait_ready(make(guest, lap), guest, directory, give_up, lap, tell)
        except BaseException as error:
            if failed and isinstance(error, Exception):
                failed(guest, error)
                return time.monotonic() - begun
            emit(Event("boot", guest.name, "failed", str(error)))
            raise
        seconds = time.monotonic() - begun
        how = "cloned, " if guest.clone else "console only, " if guest.console_only else ""
        told = " ".join(f"{stage}={taken:.4f}" for stage, taken in laps.items())
        emit(Event(STAGES, guest.name, "progress", told))
        emit(Event("boot", guest.name, "done", f"{how}ready in {seconds:.1f} s"))
        return seconds

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        futures = {guest.name: pool.submit(one, guest) for guest in guests}
        try:
            done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()  # the first that failed tells
            return {name: future.result() for name, future in futures.items()}
        except BaseException:
            # The others need not get ready; but none may still be starting when this returns.
            give_up.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def create(hypervisor: Hypervisor, guest: Guest, accel: Accel, lab: str) -> Any:
    """Create and start a transient domain, confined where the driver is ours.

    Raises `GuestError` with libvirt's words, `HostError`.
    """
    try:
        return launched(hypervisor, guest, accel, lab)
    except libvirt.libvirtError as reason:
        raise GuestError(
            f"{guest.name} cannot be started: {last_lines(reason.get_error_message())}",
            "run: labctl doctor",
        ) from None


def launched(hypervisor: Hypervisor, guest: Guest, accel: Accel, lab: str) -> Any:
    """Do as `create`, but raise `libvirt.libvirtError` as it is."""
    connection = connect(hypervisor)
    guest.log.touch(mode=0o600)
    if hypervisor.root:
        return launch.launch(connection, hypervisor.root, guest, accel, lab)
    return connection.createXML(domain_xml(guest, accel, lab), 0)


def is_active(domain: Any) -> bool:
    """Whether a transient domain runs; raises `libvirt.libvirtError`."""
    try:
        return bool(domain.isActive())
    except libvirt.libvirtError as reason:
        if reason.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return False  # a transient domain that has ended
        raise


@remote
def stop(hypervisor: Hypervisor, domain: str) -> None:
    """End a guest at once; one that is gone already is no error."""
    connection = connect(hypervisor)
    try:
        connection.lookupByName(domain).destroy()
    except libvirt.libvirtError as reason:
        gone = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID)
        if reason.get_error_code() not in gone:
            raise HostError(f"{domain} cannot be stopped: {reason.get_error_message()}") from None


@remote
def shut_down(hypervisor: Hypervisor, domain: str, seconds: float) -> bool:
    """Press a guest's power button and wait for its end; return whether it came in time.

    One that is gone already has ended. Raises `HostError` with libvirt's words.
    """
    connection = connect(hypervisor)
    deadline = Deadline(seconds, f"shutting {domain} down")
    try:
        found = connection.lookupByName(domain)
        found.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
        while is_active(found):
            if deadline.passed:
                return False
            time.sleep(LOOK_SECONDS)
    except libvirt.libvirtError as reason:
        gone = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID)
        if reason.get_error_code() not in gone:
            raise HostError(f"{domain} cannot be shut down: {reason.get_error_message()}") from None
    return True


@remote
def resume(hypervisor: Hypervisor, domain: str) -> None:
    """Let a paused guest go on; raises `HostError` with libvirt's words."""
    connection = connect(hypervisor)
    try:
        connection.lookupByName(domain).resume()
    except libvirt.libvirtError as reason:
        raise HostError(f"{domain} does not go on: {reason.get_error_message()}") from None


@remote
def set_carrier(hypervisor: Hypervisor, domain: str, mac: str, carrier: bool) -> None:
    """Give a NIC of a running guest its carrier, or take it away, as pulling its cable does.

    Raises `HostError` with libvirt's words, and where the guest has no such NIC.
    """
    connection = connect(hypervisor)
    try:
        found = connection.lookupByName(domain)
        root = ElementTree.fromstring(found.XMLDesc())
        for nic in root.iterfind("devices/interface"):
            address = nic.find("mac")
            if address is not None and address.get("address") == mac:
                link = nic.find("link")
                link = ElementTree.SubElement(nic, "link") if link is None else link
                link.set("state", "up" if carrier else "down")
                text = ElementTree.tostring(nic, encoding="unicode")
                found.updateDeviceFlags(text, libvirt.VIR_DOMAIN_AFFECT_LIVE)
                return
    except libvirt.libvirtError as reason:
        raise HostError(
            f"the link of {domain} cannot be changed: {reason.get_error_message()}"
        ) from None
    raise HostError(f"{domain} has no NIC {mac}")


@remote
def running(hypervisor: Hypervisor) -> list[str]:
    """Return the domain names of all guests there are, of whichever owner."""
    connection = connect(hypervisor)
    return sorted(domain.name() for domain in connection.listAllDomains())
