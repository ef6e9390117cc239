"""QEMU, started so that a guest that breaks out of it has got nowhere.

libvirt starts a program from the thread that asks for it, so that thread is confined first:

1. It sees programs, libraries, the guest's boot files and libvirt's folder of this lab, and no more
   of the host (`confine.view`). What it starts has no capability and can gain none.
2. QEMU is started but runs nothing of its guest yet. It has loaded and opened all it needs, so its
   whole view is taken away (`confine.empty_view`), and only then its guest runs.

As root each QEMU is a user of its own as well, without a name and with nothing to its name. In an
ordinary user's lab it stays that user: it may be by one of their groups that it opens /dev/kvm. In
both libvirt adds QEMU's own seccomp filter, which forbids new processes and programs.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.errors import HostError
from labctl.guests.domain import Memory, domain_xml
from labctl.guests.spec import Accel, Guest
from labctl.sandbox import confine
from labctl.sandbox.lazy_import import Late
from labctl.sandbox.process import start_as

if TYPE_CHECKING:
    import libvirt
else:
    libvirt = Late("libvirt")

FIRST_USER, USERS = 0x70000000, 0x0FFE0000
"""Ids above those of containers, below those that some programs take for negative: nobody's
(systemd's doc/UIDS-GIDS.md lists what is whose)."""
LONGEST_PID = 16
_PLACE = "/labctl-memory"
"""Stands for the file of a guest's memory until somebody holds it open."""
KVM = Path("/dev/kvm")
DEVICES = (KVM, Path("/dev/vhost-net"), Path("/dev/net/tun"))


def pid_in(file: Path) -> int:
    """Return the pid in a file that libvirt wrote of a QEMU; 0 where there is none.

    QEMU has it open, to write too, and may have made it as large as it liked.
    """
    with contextlib.suppress(OSError, ValueError), file.open("rb") as opened:
        return int(opened.read(LONGEST_PID))
    return 0


def own_user() -> int | None:
    """Return the id of a user for one QEMU; None in a user namespace, which has few."""
    return None if in_user_namespace() else FIRST_USER + secrets.randbelow(USERS)


def group(user: int, accel: Accel) -> int:
    """Return the group of such a user: KVM's, where no device can be made for the user alone."""
    if accel == "kvm":
        with contextlib.suppress(OSError):
            return KVM.stat().st_gid or user
    return user


def in_user_namespace() -> bool:
    """Whether this process's root is another user to the host (user_namespaces(7))."""
    return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]


def launch(connection: Any, root: Path, guest: Guest, accel: Accel, lab: str) -> Any:
    """Create and start the confined domain of a guest, by the driver embedded with this `root`.

    The guest's console is in `root`, or in a folder that does not contain it: QEMU passes through
    `root` as a user of its own.
    Raises `libvirt.libvirtError`, or `HostError` where the host does not let QEMU be confined.
    """
    domain = paused(connection, root, guest, accel, lab)
    # Not by that thread: libvirt notes in a file that the guest runs, and it sees none any more.
    domain.resume()
    return domain


def paused(
    connection: Any, root: Path, guest: Guest, accel: Accel, lab: str, memory: int | None = None
) -> Any:
    """Create the confined domain of a guest as `launch` does, but let it run nothing yet.

    `memory` is an open file, its memory, of which a template is to be made or, for a guest that is
    a clone, was. It has no name that QEMU could open: a process of the same user holds it open.
    """
    user = own_user()
    ids = None if user is None else (user, group(user, accel))

    told = None if memory is None else Memory(_PLACE, incoming=guest.clone is not None)
    xml = domain_xml(guest, accel, lab, ids, told)  # here: the confined thread can import nothing
    with tempfile.TemporaryDirectory(prefix="view-", dir=root) as base:
        return confine.in_thread(_confined, connection, root, guest, xml, ids, Path(base), memory)


def confine_thread(
    base: Path, user: int | None, read: Iterable[Path], write: Iterable[Path]
) -> None:
    """Confine this thread as far as libvirt lets, which is to start QEMU from it.

    `base` is an empty folder. libvirt opens /dev/net/tun and /dev/vhost-net, QEMU itself /dev/kvm.
    Raises `OSError`.
    """
    confine.own_mounts()
    confine.view(base, read=read, write=write, devices=DEVICES, owner=user)
    confine.no_more_rights()


@contextlib.contextmanager
def _held_open(file: int | None, ids: tuple[int, int] | None) -> Iterator[str]:
    """Let a file be opened by a path while the `with` block lasts, by programs of a user alone.

    The path leads through the open files of a process (proc_pid_fd(5)), which its own user may use
    if it has no right that they have not (ptrace(2), PTRACE_MODE_READ); so it is started from the
    confined thread, as they are. Empty without a file. Raises `OSError`.
    """
    if file is None:
        yield ""
        return
    user, group = ids or (None, None)
    holder = start_as(["/usr/bin/cat"], user, group=group, files=[file])
    try:
        yield f"/proc/{holder.pid}/fd/{file}"
    finally:
        holder.kill()
        holder.communicate()


def _confined(
    connection: Any,
    root: Path,
    guest: Guest,
    xml: str,
    ids: tuple[int, int] | None,
    base: Path,
    memory: int | None,
) -> Any:
    domain = None
    try:
        written = guest.disk.written() if guest.disk else []
        if ids:
            for file in written:
                os.chown(file, *ids)
        folders = (root, guest.console.parent, guest.log.parent, *written)
        confine_thread(base, ids[0] if ids else None, guest.files(), folders)
        with _held_open(memory, ids) as place:
            domain = connection.createXML(
                xml.replace(_PLACE, place), libvirt.VIR_DOMAIN_START_PAUSED
            )
        confine.empty_view()
    except OSError as error:
        if domain:
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
        where = f" ({os.fsdecode(error.filename)})" if error.filename else ""
        raise HostError(
            f"QEMU cannot be confined: {error.strerror}{where}", "run: labctl doctor"
        ) from None
    return domain
