"""PV guests on a Xen host, by libvirt's Xen driver in its dom0. Runs in the agent of a sandbox.

The connection is `xen+ssh://`: libvirt speaks to the libvirtd in dom0 through the lab's own SSH. A
Xen host of this lab's and a real one differ in the words of the URI only. How the parts start is in
docs/xen.md.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from xml.etree import ElementTree
from xml.etree.ElementTree import SubElement

from labctl.errors import GuestError, HostError, LabctlError, UsageError
from labctl.events import Emit
from labctl.guests import console, driver, ssh
from labctl.guests.domain import NAMESPACE
from labctl.guests.ready import Lap
from labctl.guests.spec import Guest, drive_serial
from labctl.guests.ssh_retry import retry_until_started
from labctl.guests.xen_host import BOOT_FOLDER, COMMAND_LINE_LIMIT
from labctl.kinds.guests.xen_pv import XenPv
from labctl.sandbox import agent, atomic
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.lazy_import import Late
from labctl.sandbox.process import WATCH_SECONDS, Result, last_lines, run
from labctl.sandbox.remote import remote

if TYPE_CHECKING:
    import libvirt
else:
    libvirt = Late("libvirt")

CMDLINE = XenPv.cmdline
"""Kernel command line of a PV guest; its configuration comes with the initramfs."""
HOST_SECONDS = 120.0
ASK_SECONDS = 3.0
NOT_TOLD = 255
"""What ssh(1) exits with when it has no exit status of the command's."""
MAX_ATTEMPTS = 3
RUN = Path("/run/labctl")
"""Where dom0 of a lab's own Xen host keeps what is of the lab."""
JOINED = b"\0"
"""What the words of `console_words` write before anything of the console's."""
LOGS = "/var/log/xen/console"
"""Where xenconsoled writes what guests say, each to `guest-DOMAIN.log`."""
FOLLOW = (
    "$| = 1; my ($f, $b) = @ARGV; my $in;"
    " until (open $in, '<', $f) { exit if getppid == 1; select undef, undef, undef, .1 }"
    " for (;;) { my $last = !-e $f || getppid == 1;"
    " while (sysread $in, $b, 65536) { print $b or exit }"
    " exit if $last; select undef, undef, undef, .1 }"
)
"""Perl that writes a file as it grows until it is removed; busybox's tail looks once a second."""
READ = (
    "$| = 1; my ($f, $b) = @ARGV; sysopen my $in, $f, 0400 or exit;"
    " while (sysread $in, $b, 65536) { print $b or exit }"
)
"""Perl that writes what a terminal says (0400 is O_NOCTTY). Not cat: busybox's uses sendfile(2),
which holds the lock of the pipe that it writes to while it waits, and so stops the SSH server that
reads there (splice_file_to_pipe; the server's other sessions stand still with it)."""


@dataclass(frozen=True)
class XenGuest:
    """A PV guest: `guest` with vifs for TAPs, the files in dom0 that it boots, its configuration.

    Of `guest`, `kernel` and `initramfs` are files of this machine that the Xen host has as drives
    (`XenHost.drives`); the console's socket is not used.
    """

    guest: Guest
    bridges: Mapping[str, str]
    """The bridge in dom0 of each vif, by the name of the vif (`Nic.tap`)."""
    lines: str
    """What its init reads (docs/images.md, the boot contract)."""
    files: Mapping[Path, str] = field(default_factory=dict)
    """Where dom0 has kernel and initramfs, if not as drives."""

    def boot_file(self, file: Path) -> str:
        """Return the path in dom0 of a file of this machine."""
        return self.files.get(file) or boot_file(file)


@dataclass(frozen=True)
class XenHost:
    """A Xen host and the way to it: `name` is a host of the lab's SSH configuration."""

    name: str
    directory: Path
    """The lab's directory."""
    log: Path
    """What its own console said."""
    domain: str = ""
    """Its own domain where it is a guest of this lab, to know at once that it has ended."""
    real: str = ""
    """The libvirt URI of a real one, no guest of the lab."""
    folder: Path = RUN
    """Where its dom0 keeps what is of the lab."""

    @property
    def uri(self) -> str:
        """The libvirt URI of its Xen driver (https://libvirt.org/uri.html, SSH transport)."""
        if self.real:
            return self.real
        words = {"command": str(self.directory / "ssh"), "no_verify": "0", "mode": "legacy"}
        return f"xen+ssh://{self.name}/system?{urlencode(words)}"

    @property
    def hypervisor(self) -> driver.Hypervisor:
        """How its guests are driven."""
        return driver.Hypervisor(None, self.uri)

    def words(self, command: str) -> list[str]:
        """Return the words that run a shell's line in dom0."""
        return [*ssh.command(self.directory, self.name), command]

    def error(self, message: str) -> LabctlError:
        """Build the error of something that failed there, with the end of its console."""
        if self.real:
            return HostError(message, "its own logs tell more")
        hint = f"read its console: labctl logs {self.name}"
        return GuestError(message, hint, console.tail(self.log))


def guest_xml(one: XenGuest, lab: str, folder: Path = RUN) -> str:
    """Write the domain of a PV guest.

    Raises `UsageError` for a command line longer than Xen hands on: it would be cut off silently.
    """
    guest = one.guest
    if len(guest.cmdline) > COMMAND_LINE_LIMIT:
        raise UsageError(
            f"the kernel command line of {guest.name} has {len(guest.cmdline)} characters; "
            f"Xen hands a guest {COMMAND_LINE_LIMIT}"
        )
    domain = ElementTree.Element("domain", type="xen")
    SubElement(domain, "name").text = guest.domain
    ElementTree.register_namespace("labctl", NAMESPACE)
    node = {"lab": lab, "name": guest.name}
    SubElement(SubElement(domain, "metadata"), f"{{{NAMESPACE}}}node", node)
    SubElement(domain, "memory", unit="MiB").text = str(guest.memory)
    SubElement(domain, "vcpu").text = str(guest.vcpus)
    system = SubElement(domain, "os")
    SubElement(system, "type", arch="x86_64", machine="xenpv").text = "linux"
    SubElement(system, "kernel").text = one.boot_file(guest.kernel)
    SubElement(system, "initrd").text = initramfs_of(guest.domain, folder)
    SubElement(system, "cmdline").text = guest.cmdline
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        SubElement(domain, f"on_{event}").text = action
    devices = SubElement(domain, "devices")
    for nic in guest.nics:
        interface = SubElement(devices, "interface", type="bridge")
        SubElement(interface, "mac", address=nic.mac)
        SubElement(interface, "source", bridge=one.bridges[nic.tap])
        SubElement(interface, "script", path="vif-bridge")
        SubElement(interface, "target", dev=nic.tap)
    console = SubElement(devices, "console", type="pty")
    SubElement(console, "target", type="xen", port="0")
    ElementTree.indent(domain)
    return ElementTree.tostring(domain, encoding="unicode")


def boot_file(file: Path) -> str:
    """Return the path in dom0 of a file of this machine that the host has as a drive."""
    return f"{BOOT_FOLDER}/{drive_serial(file)}"


def initramfs_of(domain: str, folder: Path = RUN) -> str:
    """Return the path in dom0 of a guest's own initramfs, there while the guest is made."""
    return f"{folder}/{domain}.initramfs"


def prepare(directory: Path) -> None:
    """Write the program that libvirt runs as its ssh: ours with the lab's configuration.

    So libvirt shares the lab's connection to the host, its key and its pinned host keys.
    """
    program = directory / "ssh"
    if not program.exists():
        config = shlex.quote(str(directory / ssh.CONFIG))
        atomic.write(program, f'#!/bin/sh\nexec ssh -F {config} "$@"\n', 0o700)


@remote
def start(host: XenHost, guests: Sequence[XenGuest], lab: str, emit: Emit) -> dict[str, float]:
    """Start PV guests on a Xen host that is ready, until a command ran in each.

    Returns the seconds each took. Raises `GuestError` or `DeadlineError` with the tail of the
    guest's console, or of dom0's where the host itself failed.
    """
    with _watched(host):
        return _start(host, guests, lab, emit)


def _start(host: XenHost, guests: Sequence[XenGuest], lab: str, emit: Emit) -> dict[str, float]:
    connection = connect(host)
    by_name = {one.guest.name: one for one in guests}
    making = threading.Lock()

    def make(guest: Guest, _lap: Lap) -> Callable[[], bool]:
        one = by_name[guest.name]
        xml = guest_xml(one, lab, host.folder)
        _lay_out(host, one)
        # dom0 has one CPU: taking turns, the first guest boots while the next one is made.
        with making, _answering(host, f"{guest.name} cannot be started on {host.name}"):
            domain = connection.createXML(xml, 0)
        if host.real:
            _listen(host, guest)
        # Xen has copied it into the guest's memory; dom0 has none to spare.
        in_dom0(host, f"rm -f {shlex.quote(initramfs_of(guest.domain, host.folder))}")
        return _Runs(host, domain)

    return driver.boot([one.guest for one in guests], make, host.directory, emit)


class _Runs:
    """Whether a guest runs: calling it raises `GuestError` when its host is gone.

    dom0 is asked now and then only: its one CPU has better to do while guests boot.
    """

    def __init__(self, host: XenHost, domain: Any) -> None:
        self._host = host
        self._domain = domain
        self._next = time.monotonic() + ASK_SECONDS

    def __call__(self) -> bool:
        _check_alive(self._host)
        if time.monotonic() < self._next:
            return True
        self._next = time.monotonic() + ASK_SECONDS
        with _answering(self._host):
            try:
                return bool(self._domain.isActive())
            except libvirt.libvirtError as reason:
                if reason.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return False
                raise


def _check_alive(host: XenHost) -> None:
    """Raise `GuestError` when a host of the lab's has ended: SSH would notice minutes later."""
    outer = driver.Hypervisor(host.directory / "embed")
    if host.domain and host.domain not in driver.running(outer):
        raise GuestError(
            f"the Xen host {host.name} has ended; its console's last lines are below",
            "has it enough memory? docs/xen.md tells how much it takes",
            console.tail(host.log),
        )


@contextlib.contextmanager
def _watched(host: XenHost) -> Iterator[None]:
    """End the shared SSH connection to a host that dies in the `with` block.

    So whatever waits for an answer of dom0, libvirt too, fails at once.
    """
    over = threading.Event()

    def look() -> None:
        while not over.wait(WATCH_SECONDS):
            try:
                _check_alive(host)
            except LabctlError:
                words = [*ssh.command(host.directory, host.name)[:-1], "-O", "exit", host.name]
                run(words, deadline=Deadline(20, f"letting go of {host.name}"), check=False)
                return

    thread = threading.Thread(target=look, daemon=True, name="labctl-xen-host")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _answering(host: XenHost, what: str = "") -> Iterator[None]:
    """Turn libvirt's errors into `GuestError` with the end of the host's console."""
    try:
        yield
    except libvirt.libvirtError as reason:
        _check_alive(host)
        raise host.error(
            f"{what or f'libvirt in dom0 of {host.name} failed'}: "
            f"{last_lines(reason.get_error_message())}"
        ) from None


def connect(host: XenHost) -> Any:
    """Return this process's connection to a host's Xen driver, opened when first needed.

    Raises `GuestError` with the end of the host's console.
    """
    _check_alive(host)
    if not host.real:
        prepare(host.directory)
    try:
        return driver.connect(host.hypervisor)
    except HostError as error:
        _check_alive(host)
        raise host.error(
            f"libvirt in dom0 of {host.name} cannot be reached: {error.message}"
        ) from None


def in_dom0(host: XenHost, line: str, *, stdin: bytes = b"", check: bool = True) -> Result:
    """Run a shell's line in dom0, one that may be run twice.

    Raises `GuestError` with the end of its console when it fails. It is run again where ssh cannot
    tell how it ended: under load that was seen of a command right after another session's end.
    """
    deadline = Deadline(HOST_SECONDS, f"a command in dom0 of {host.name}")

    def go(text: str) -> Result:
        watch = partial(_check_alive, host)
        return run(host.words(text), deadline=deadline, stdin=stdin, check=False, watch=watch)

    for _ in range(MAX_ATTEMPTS):
        result, _ = retry_until_started(go, line)
        if result.status != NOT_TOLD:
            break
    if check and not result.ok:
        _check_alive(host)
        words = last_lines(result.stderr) or f"exit status {result.status} of: {line}"
        raise host.error(f"dom0 of {host.name} failed: {words}")
    return result


def _lay_out(host: XenHost, one: XenGuest) -> None:
    """Put together what a guest boots in dom0, and follow its console from its first word on."""
    domain = one.guest.domain
    folder, own = shlex.quote(str(host.folder)), shlex.quote(initramfs_of(domain, host.folder))
    log = shlex.quote(f"{LOGS}/guest-{domain}.log")
    in_dom0(
        host,
        f"set -e; umask 077; rm -f {log}; mkdir -p {folder}; "
        f"cd $(mktemp -d -p {folder}); cat >labctl.conf; "
        f"{{ cat {one.boot_file(one.guest.initramfs)}; echo labctl.conf | cpio -o -H newc; }} "
        f">{own}; "
        "rm labctl.conf; rmdir $PWD",
        stdin=one.lines.encode(),
    )
    atomic.write(one.guest.log, b"")
    if not host.real:
        _follow(host, one.guest, f"exec perl -e {shlex.quote(FOLLOW)} {log}")


def _follow(host: XenHost, guest: Guest, line: str) -> None:
    """Copy what a shell's line in dom0 writes to the log of a guest's console."""
    # A connection of its own: on a shared one the end of another session may end its beginning.
    words = [*ssh.command(host.directory, host.name, shared=False), line]
    # What else dom0 says goes nowhere: it may have no end, and of files of a lab's only logs are
    # kept within bounds.
    agent.spawn(words, guest.log, Path(os.devnull), "", True)


def _listen(host: XenHost, guest: Guest) -> None:
    """Follow the console of a guest that has just been made, whether xenconsoled writes it or not.

    Debian's does not. Then it is read from the guest's terminal, where each word is read by one
    reader only; xenconsoled keeps what comes before there is one.
    """
    log = shlex.quote(f"{LOGS}/guest-{guest.domain}.log")
    _follow(
        host,
        guest,
        f"at=/local/domain/$(xl domid {shlex.quote(guest.domain)})/console/tty || exit; "
        # A terminal is there just before the file.
        'until [ "$tty" ]; do tty=$(xenstore-read $at) || gone=$((gone + 1)); '
        '[ "$gone" != 30 ] || exit; sleep 1; done; '
        f"[ ! -e {log} ] || exec perl -e {shlex.quote(FOLLOW)} {log}; "
        f'exec perl -e {shlex.quote(READ)} "$tty"',
    )


@remote
def stop(host: XenHost, domain: str) -> None:
    """End a guest at once, and the copying of its console; one that is gone is no error."""
    connect(host)
    with _answering(host):
        driver.stop(host.hypervisor, domain)
    in_dom0(host, f"rm -f {shlex.quote(f'{LOGS}/guest-{domain}.log')}", check=False)


@remote
def running(host: XenHost) -> list[str]:
    """Return the names of the guests that run on a host; dom0 is none."""
    connect(host)
    with _answering(host):
        names = driver.running(host.hypervisor)
    return [name for name in names if name != "Domain-0"]


def console_words(host: XenHost, domain: str) -> list[str]:
    """Return the words that, run inside the sandbox, join a guest's console: first comes `JOINED`.

    Through dom0's `xl`, the only way to it that needs no libvirt: that one's stream ends with its
    connection. It reads a terminal only, so it has one in dom0, which must not change what passes.
    """
    words = ssh.command(host.directory, host.name, terminal=True)
    join = shlex.join(["xl", "console", "-t", "pv", domain])
    return [*words, f"stty raw -echo; printf '\\0'; exec {join}"]
