"""Take from a thread, and what it starts, all of the host that it does not need.

Namespaces, the capability bounding set, `no_new_privs` and the session keyring belong to a thread,
not to a process, and children have those of the thread that made them (namespaces(7),
capabilities(7), prctl(2), session-keyring(7)). So a thread of its own is confined and then starts
a program; the threads beside it keep what they have. `labctl.guests.launch` starts QEMU so.

Standard library only: a dom0 runs it too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# linux/sched.h, linux/mount.h
CLONE_NEWNS, CLONE_NEWIPC = 0x00020000, 0x08000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
# linux/prctl.h
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
CAP_NET_ADMIN, CAP_NET_RAW = 12, 13
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAP = Path("/proc/sys/kernel/cap_last_cap")
# asm/unistd.h, linux/keyctl.h
_KEYCTL = {"x86_64": 250, "aarch64": 219}
_KEYCTL_JOIN_SESSION_KEYRING = 1

USR = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Beside /usr: links into it, or folders where a host has not merged them."""
DEVICES = ("null", "zero", "full", "random", "urandom")
"""The devices of `view` that everybody may use."""

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: object) -> None:
    if getattr(_libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(
            number, f"{name}: {os.strerror(number)}", args[1] if name == "mount" else None
        )


def mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    """Call mount(2); raises `OSError`."""
    _call("mount", source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags),
          options.encode())  # fmt: skip


def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function` in a thread that ends with it, so that it may confine itself."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function(*args, **kwargs))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name="labctl-confined")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def own_mounts() -> None:
    """Give this thread mount and IPC namespaces of its own; its mounts are seen nowhere else.

    Raises `OSError`.
    """
    _call("unshare", CLONE_NEWNS)
    try:
        _call("unshare", CLONE_NEWIPC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a kernel without such namespaces
            raise
    mount("none", Path("/"), "", MS_REC | MS_PRIVATE)


def no_more_rights(*but: int) -> None:
    """Let nothing that this thread starts have a capability, gain rights or see the user's keys.

    Capabilities that are named it may have.

    The thread itself keeps its capabilities: a program loses them when it is started, root's too,
    for they are cut by the bounding set (execve(2)). Raises `OSError`.
    """
    for number in range(int(_LAST_CAP.read_text()) + 1):
        if number not in but:
            _prctl(PR_CAPBSET_DROP, number)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if number := _KEYCTL.get(os.uname().machine, 0):
        # Where a container forbids it (EPERM) or the kernel has none (ENOSYS), no keys are at hand.
        _libc.syscall(number, _KEYCTL_JOIN_SESSION_KEYRING, None)


def _prctl(option: int, value: int) -> None:
    _call("prctl", option, *(ctypes.c_ulong(one) for one in (value, 0, 0, 0)))


def forgo(*capabilities: int) -> None:
    """Leave this thread, the only one of its process, with what it has open and these rights.

    For a program that has opened and imported all it needs, before it reads what anybody may have
    sent. Raises `OSError`.
    """
    own_mounts()
    no_more_rights()
    empty_view(others=False)
    keep = sum(1 << one for one in capabilities)
    head = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    low, high = keep & 0xFFFFFFFF, keep >> 32
    _call("capset", head, struct.pack("6I", low, low, 0, high, high, 0))


def view(
    base: Path,
    *,
    read: Iterable[Path] = (),
    write: Iterable[Path] = (),
    devices: Iterable[Path] = (),
    owner: int | None = None,
) -> None:
    """Replace what this thread sees of the files by what QEMU and libvirt need.

    That is programs and libraries, /proc and /sys, and:

    - `read`: files and folders, read-only; what is not for everybody is copied for an `owner`;
    - `write`: folders and files, as they are;
    - `devices` as far as they are there, beside the harmless `DEVICES`. With an `owner`, a user
      that has no name, root makes them anew, for that user alone.

    All stand where they stood. `base` is an empty folder, in none of these, to build it on. The
    thread has `own_mounts`. Raises `OSError`.
    """
    mount("labctl", base, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for name in USR:
        old = Path("/", name)
        if old.is_symlink():
            (base / name).symlink_to(old.readlink())
        elif old.is_dir():
            _bind(old, base, read_only=True)
    fixed = [Path("/usr"), Path("/etc/ld.so.cache"), Path("/etc/alternatives")]
    for path in filter(Path.exists, fixed):
        _bind(path, base, read_only=True)
    _make_proc(base)
    _bind(Path("/sys"), base)
    for path in _topmost(write):
        _bind(path, base, flags=MS_BIND)  # `base` may be in it
    for path in _topmost(read):  # last: one may be in a folder of `write`
        copy = None if owner is None else _copy_of_private(path, base)
        _bind(path, base, read_only=True, source=copy)
    _make_devices(base, devices, owner)
    _folder(base / "tmp", base)
    _become_root(base)


def empty_view(*, others: bool = True) -> None:
    """Replace what this thread sees of the files by nothing at all: one empty read-only folder.

    With `others` it is so for every process whose root is this thread's too (pivot_root(2)), as for
    one that this thread has started in a `view`. What they have open stays open. The thread has
    `own_mounts`. Raises `OSError`.
    """
    base = Path("/proc")
    mount("labctl", base, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=555")
    _become_root(base, others=others)


def _become_root(base: Path, *, others: bool = False) -> None:
    """Make a mount the root of this thread; with `others`, of all whose root is the same."""
    os.chdir(base)
    try:
        # The old root comes to lie over the new one, and is taken off it.
        _call("pivot_root", b".", b".")
        _call("umount2", b".", MNT_DETACH)
    except OSError as error:
        # The kernel's first root, from which an initramfs runs (a dom0 may), cannot be taken off.
        if others or error.errno != errno.EINVAL:
            raise
        os.chroot(".")
    os.chdir("/")


def _topmost(paths: Iterable[Path]) -> list[Path]:
    """Leave out what lies in another folder of `paths`."""
    found: list[Path] = []
    for path in sorted(set(paths), key=lambda one: len(one.parts)):
        if not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return found


def _folder(path: Path, base: Path) -> None:
    """Make a folder of the view, and those above it: everybody may pass."""
    if path == base or path.exists():
        return
    _folder(path.parent, base)
    path.mkdir()
    path.chmod(0o755)


def _bind(
    path: Path,
    base: Path,
    *,
    flags: int = MS_BIND | MS_REC,
    read_only: bool = False,
    source: Path | None = None,
) -> None:
    """Let a file or folder, or its `source`, stand in the view where it stands outside.

    Links on the way are followed.
    """
    target = base / path.relative_to("/")
    if path.is_dir():
        _folder(target, base)
    else:
        _folder(target.parent, base)
        if not target.exists():  # in /usr, say, it is there
            target.touch()
    mount(str(source or path.resolve()), target, "", flags)
    if read_only:
        # In a user namespace what is set already cannot be taken away (mount_namespaces(7)).
        kept = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount("none", target, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)


def _copy_of_private(path: Path, base: Path) -> Path | None:
    """Copy a file that is not for everybody, as Ubuntu's kernels are; None where it need not be.

    It takes memory until the view is left.
    """
    if path.is_dir() or path.stat().st_mode & stat.S_IROTH:
        return None
    folder = base / "copies"
    _folder(folder, base)
    copy = folder / f"{len(list(folder.iterdir()))}-{path.name}"
    copy.write_bytes(path.read_bytes())
    copy.chmod(0o444)
    return copy


def _make_proc(base: Path) -> None:
    """Let nobody but root see others' processes: a guest's command line has its keys."""
    target = base / "proc"
    target.mkdir()
    try:
        # By this name since Linux 5.8. "invisible" would show all to group 0 (has_pid_permissions).
        mount("proc", target, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=ptraceable")
    except OSError:  # older, or a container that masks some of its own /proc
        mount("/proc", target, "", MS_BIND | MS_REC)


def _make_devices(base: Path, devices: Iterable[Path], owner: int | None) -> None:
    folder = base / "dev"
    _folder(folder, base)
    mount("labctl", folder, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755")
    for name in DEVICES:
        _bind(Path("/dev", name), base)
    for path in devices:
        if not path.exists():
            continue
        if owner is None or not _made_anew(path, base / path.relative_to("/"), owner):
            _bind(path, base)


def _made_anew(device: Path, target: Path, owner: int) -> bool:
    """Make a node of a device for its user alone; False where a container forbids it."""
    _folder(target.parent, target.parents[1])
    found = device.stat()
    try:
        os.mknod(target, stat.S_IFCHR | 0o600, found.st_rdev)
    except PermissionError:
        return False
    os.chown(target, owner, owner)
    return True
