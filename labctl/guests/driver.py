"""Guests by libvirt-python. Runs in the agent of a world; each function is one call to it.

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
from labctl.guests import console, launch, ssh
from labctl.guests.domain import domain_xml
from labctl.guests.spec import Accel, Guest
from labctl.world.deadline import Deadline
from labctl.world.late import Late
from labctl.world.process import Result, last_words, run
from labctl.world.remote import remote

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

READY = b"labctl: ready"
TROUBLE = b"labctl: error:"
PANIC = b"Kernel panic - not syncing"
XEN_PANIC = re.compile(r"Panic on CPU \d{1,5}:\n\(XEN\) (.*)")
_LONGEST_LINE = 300
"""Characters that an error quotes of what a guest said."""
LOCK_SECONDS = 60.0
READY_SECONDS = 240.0
"""A guest under TCG on a busy machine takes tens of seconds; this only catches the dead."""
LOOK_SECONDS = 0.02
ALIVE_SECONDS = 0.25
"""How often to ask libvirt whether a booting guest still runs; asking costs the guest CPU time."""
NO_CARRIER = "labctl: no carrier on"
CARRIER_TRIES = 400
KNOCK_SECONDS = 2.0
"""How often to try SSH on a guest whose console never says `ready` (a user's own image)."""

VMSTAT = Path("/proc/vmstat")

_loop_started = threading.Event()
_opening = threading.Lock()
_connections: dict[str, Any] = {}


@dataclass(frozen=True)
class Hypervisor:
    """How to reach libvirt: the root of an embedded driver, or the URI of another."""

    root: Path
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


def _prepare(hypervisor: Hypervisor) -> None:
    root = hypervisor.root
    # libvirt makes the others with the user's umask. A QEMU that is another user passes these to
    # read its own folder; the lab's directory above keeps everybody else out.
    for folder in (root, root / "etc", root / "lib", root / "lib" / "qemu"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
    user = SAME_USER if launch.in_user_namespace() else "root"
    (root / "etc" / "qemu.conf").write_text(QEMU_CONF.format(user=user))
    cache = root / "cache"
    if hypervisor.capabilities and not cache.exists():
        with contextlib.suppress(OSError):  # libvirt makes a cache of its own beside it then
            hypervisor.capabilities.mkdir(parents=True, exist_ok=True)
            if os.access(hypervisor.capabilities, os.W_OK):
                cache.symlink_to(hypervisor.capabilities)


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
    uri = hypervisor.uri or f"qemu:///embed?root={hypervisor.root}"
    with _opening:
        if uri in _connections and _connections[uri].isAlive():
            return _connections[uri]
        _start_event_loop()
        lock = -1
        if not hypervisor.uri:
            _prepare(hypervisor)
            lock = _lock(hypervisor.root)
        try:
            with _one_cpu():
                connection = libvirt.open(uri)
                if not hypervisor.uri:
                    _learn_of_qemu(connection)
        except libvirt.libvirtError as reason:
            if lock >= 0:
                os.close(lock)  # or the next try would wait for this one
            raise HostError(
                f"libvirt cannot open {uri}: {reason.get_error_message()}", "run: labctl doctor"
            ) from None
        _connections[uri] = connection
        return connection


def _learn_of_qemu(connection: Any) -> None:
    """Let libvirt read, or find out, what QEMU can do; what starts a guest does not see the cache.

    Whoever needs an answer that is missing hears why.
    """
    with contextlib.suppress(libvirt.libvirtError):
        connection.getVersion()


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

    def make(guest: Guest) -> Callable[[], bool]:
        domain = create(hypervisor, guest, accel, lab)
        return lambda: _active(domain)

    return boot(guests, make, directory, emit)


def boot(
    guests: Sequence[Guest],
    make: Callable[[Guest], Callable[[], bool]],
    directory: Path,
    emit: Emit,
) -> dict[str, float]:
    """Start guests by `make`, which returns what tells whether the guest runs; see `start`."""
    give_up = threading.Event()

    def one(guest: Guest) -> float:
        begun = time.monotonic()
        emit(Event("boot", guest.name, "start"))
        try:
            wait_ready(make(guest), guest, directory, give_up)
        except BaseException as error:
            emit(Event("boot", guest.name, "failed", str(error)))
            raise
        seconds = time.monotonic() - begun
        emit(Event("boot", guest.name, "done", f"ready in {seconds:.1f} s"))
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
            f"{guest.name} cannot be started: {last_words(reason.get_error_message())}",
            "run: labctl doctor",
        ) from None


def launched(hypervisor: Hypervisor, guest: Guest, accel: Accel, lab: str) -> Any:
    """Do as `create`, but raise `libvirt.libvirtError` as it is."""
    connection = connect(hypervisor)
    guest.log.touch(mode=0o600)
    if hypervisor.uri:
        return connection.createXML(domain_xml(guest, accel, lab), 0)
    return launch.launch(connection, hypervisor.root, guest, accel, lab)


def _active(domain: Any) -> bool:
    try:
        return bool(domain.isActive())
    except libvirt.libvirtError as reason:
        if reason.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return False  # a transient domain that has ended
        raise


def first_command(guest: Guest) -> str:
    """Return what a guest runs to prove that it is ready.

    Emulated NICs of real hardware negotiate for two seconds before they have a carrier; virtio has
    it at once.
    """
    slow = [nic.name for nic in guest.nics if nic.model != "virtio"]
    if not slow:
        return "true"
    return (
        f"for i in {' '.join(slow)}; do n=0; "
        'until [ "$(cat /sys/class/net/$i/carrier 2>/dev/null)" = 1 ]; do n=$((n + 1)); '
        f'[ $n -lt {CARRIER_TRIES} ] || {{ echo "{NO_CARRIER} $i" >&2; exit 1; }}; '
        "sleep 0.1; done; done"
    )


def wait_ready(
    alive: Callable[[], bool], guest: Guest, directory: Path, give_up: threading.Event
) -> None:
    """Wait until a command has run in the guest, or `give_up` is set.

    The console's word says when to knock, so that no time is lost in TCP's and neighbour
    discovery's retries; a guest that never says it is knocked at all the same.
    """
    deadline = Deadline(READY_SECONDS, f"booting {guest.name}")
    log = console.Watcher(guest.log, READY, TROUBLE, PANIC)
    knock_at = time.monotonic() + 15 * KNOCK_SECONDS
    ask_at = time.monotonic()
    killed = oom_kills()

    def check() -> None:
        nonlocal ask_at
        if give_up.is_set():
            raise GuestError(f"{guest.name} was given up: another guest failed")
        log.look()
        _check_troubles(guest, log)
        # After a panic it starts again: it would go on for ever.
        ended = PANIC in log.said
        if not ended and time.monotonic() >= ask_at:
            ended, ask_at = not alive(), time.monotonic() + ALIVE_SECONDS
        if ended:
            raise _killed(guest) if not panic(guest) and oom_kills() > killed else _died(guest)

    while True:
        log.look()
        said = READY in log.said
        if said or time.monotonic() > knock_at:
            words = [*ssh.command(directory, guest.name), first_command(guest)]
            limit = Deadline(min(60.0, deadline.left or 1.0), f"first command in {guest.name}")
            answer = _knock(words, limit, check)
            if answer and answer.ok:
                break
            if answer and NO_CARRIER in answer.stderr:
                raise GuestError(
                    f"{guest.name} sees no carrier on {answer.stderr.split()[-1]}",
                    "use another NIC model, or read its console: labctl logs " + guest.name,
                    console.tail(guest.log),
                )
            knock_at = time.monotonic() + KNOCK_SECONDS
        check()
        if deadline.passed:
            raise deadline.error(
                "its console's last lines are below",
                "is the machine overloaded, or the kernel without drivers for these interfaces?",
                console.tail(guest.log),
            )
        time.sleep(LOOK_SECONDS if not said else KNOCK_SECONDS / 4)
    log.look()
    _check_troubles(guest, log)


def _knock(words: Sequence[str], limit: Deadline, check: Callable[[], None]) -> Result | None:
    """Run a guest's first command; None when there was no answer."""
    try:
        return run(words, deadline=limit, check=False, package="openssh-client", watch=check)
    except DeadlineError:
        return None


def oom_kills() -> int:
    """Return how many processes this host has killed for want of memory since it was booted.

    Also those of a control group alone (proc_vmstat(5), oom_kill; Linux 4.13).
    """
    with contextlib.suppress(OSError, ValueError):
        for line in VMSTAT.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _killed(guest: Guest) -> GuestError:
    return GuestError(
        f"{guest.name} was killed while booting: there was not enough memory",
        "end other programs, or give the container (its control group) more memory",
        console.tail(guest.log),
    )


def _died(guest: Guest) -> GuestError:
    """Build the error of a guest that ended before it was ready, with what its kernel said."""
    why = panic(guest)
    why = f": {why}" if why else ""
    kernel = guest.dom0.kernel if guest.dom0 else guest.kernel
    return GuestError(
        f"{guest.name} died while booting{why}; its console's last lines are below",
        f"is {kernel} a kernel for {'dom0' if guest.dom0 else 'this machine'}?",
        console.tail(guest.log),
    )


def panic(guest: Guest) -> str:
    """Return the last words of a guest's kernel, or of Xen, on the console; empty without any."""
    said = console.end(guest.log).replace("\r", "")
    if found := re.search(f"{PANIC.decode()}(.*)", said):
        return f"kernel panic{found[1][:_LONGEST_LINE]}"
    if found := XEN_PANIC.search(said):
        return f"Xen panicked: {found[1][:_LONGEST_LINE]}"
    return ""


def _check_troubles(guest: Guest, log: console.Watcher) -> None:
    """Raise `GuestError` with the first trouble that its init told of, a whole line."""
    if text := log.line(TROUBLE):
        raise GuestError(
            f"{guest.name} could not take its configuration: {text[:_LONGEST_LINE]}",
            "change that line of the topology, or use an image that can do it",
            console.tail(guest.log),
        )


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
def running(hypervisor: Hypervisor) -> list[str]:
    """Return the domain names of all guests there are, of whichever owner."""
    connection = connect(hypervisor)
    return sorted(domain.name() for domain in connection.listAllDomains())
