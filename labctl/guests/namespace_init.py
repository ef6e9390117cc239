"""The first process of a node that is a network namespace: it makes what the node's programs see.

    unshare --mount --uts --ipc --pid --fork … python -P -m labctl.guests.namespace_init LAUNCH

It is started in the node's network namespace, makes the rest of what is the node's own, says
`ready`, and collects orphans until the lab ends. What is run in the node enters its namespaces
(nsenter(1)) with the rights of `KEPT` alone, so that nothing of this can be undone:

- all files of the host are read-only (mount_setattr(2), from Linux 5.12 on), device files lead
  nowhere, and the lab's own directory is hidden, as are the sockets that programs of the host
  listen on: to connect to one is no write to its file system;
- `/run`, `/tmp`, `/var/tmp` and `/root` are private, in memory, and bounded;
- `/proc` shows the node's processes; of its settings those of the network can be written, which are
  the namespace's own (proc_sys_net(5)); `/sys` is read-only and shows the node's links;
- `/dev` has no device of the host but the harmless ones and the TUN device.

It imports all it needs before it mounts: its own Python may lie in what is hidden.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.sandbox import confine
from labctl.sandbox.confine import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC

HOME = Path("/root")
ROOM = "size=64m"
"""What a node can write to each of its folders, which is memory of the host's."""
PRIVATE: Mapping[Path, str] = {
    Path("/run"): "755",
    Path("/tmp"): "1777",
    Path("/var/tmp"): "1777",
    HOME: "700",
}
DEVICES = (*confine.DEVICES, "tty", "net/tun")
KEPT = (
    "chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "net_bind_service", "net_broadcast", "net_admin", "net_raw", "sys_chroot", "audit_write",
)  # fmt: skip
"""The capabilities of programs in a node (capabilities(7)): those that servers need which serve a
network, and none by which a mount, a module or a device could be had."""

# linux/mount.h, linux/fcntl.h, asm/unistd.h (the number is the same everywhere)
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NODEV = 1, 4
_MNT_DETACH = 2


@dataclass(frozen=True)
class Launch:
    """What the node is to have. It holds keys, so it is a file that is removed when it is read."""

    name: str
    note: Path
    """Where to write this process's pid in the lab, and when it began."""
    view: Path
    """An empty folder to build on."""
    hide: Path
    """A folder that the node is not to see."""
    sockets: Sequence[str]
    """Sockets of the host that the node is not to reach."""
    files: Mapping[str, str]
    """Files for the node alone, by their path below one of `PRIVATE`: their text."""
    hosts: str
    """What stands in its /etc/hosts."""

    def text(self) -> str:
        """Return it as it stands in the file."""
        return json.dumps(vars(self), default=str)

    @classmethod
    def of(cls, text: str) -> Launch:
        """Return what `text` gave."""
        told = json.loads(text)
        note, view, hide = (Path(told[name]) for name in ("note", "view", "hide"))
        return cls(told["name"], note, view, hide, told["sockets"], told["files"], told["hosts"])


def note(file: Path) -> None:
    """Write which process this is, as it is numbered where /proc was mounted."""
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    file.write_text(f"{Path('/proc/self').readlink()} {stat[19]}")


def make(launch: Launch) -> None:
    """Make what the node's programs see; raises `OSError`."""
    socket.sethostname(launch.name)
    _set_mounts("/", _AT_RECURSIVE, _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NODEV)
    confine.mount("labctl", launch.view, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k")
    _fill_dev(launch.view)
    confine.mount(str(launch.view), Path("/dev"), "", MS_BIND | MS_REC)
    if os.path.ismount(launch.view):
        _unmount(launch.view)
    confine.mount("proc", Path("/proc"), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for path in writable(Path("/proc")):
        _read_only_again(path)
    net = Path("/proc/sys/net")
    confine.mount("proc", launch.view, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    confine.mount(str(launch.view / "sys/net"), net, "", MS_BIND)
    _unmount(launch.view)
    # A container that masks parts of its own /sys forbids it to ordinary users.
    with contextlib.suppress(PermissionError):
        confine.mount("labctl", Path("/sys"), "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for path, mode in PRIVATE.items():
        if path.is_dir() and not path.is_symlink():
            flags = MS_NOSUID | MS_NODEV
            confine.mount("labctl", path, "tmpfs", flags, f"mode={mode},{ROOM}")
    if launch.hide.is_dir():
        flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
        confine.mount("labctl", launch.hide, "tmpfs", flags, "mode=555")
    for path in map(Path, launch.sockets):
        if path.is_socket():  # else it is hidden already, has gone, or is a container's
            confine.mount("/dev/null", path, "", MS_BIND)
    _write(launch)


def writable(proc: Path) -> Iterator[Path]:
    """Yield what is of the whole host in a proc(5), and can be written or holds what can.

    Root may write most of it without any capability (`/proc/dynamic_debug/control`).
    """
    for path in sorted(proc.iterdir()):
        if path.name.isdecimal() or path.is_symlink():
            continue
        with contextlib.suppress(OSError):
            if path.is_dir() or path.stat().st_mode & 0o222:
                yield path


def _set_mounts(path: str, how: int, add: int, remove: int = 0) -> None:
    """Set and clear attributes of mounts, of what this process sees alone (mount_setattr(2))."""
    attributes = struct.pack("4Q", add, remove, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    name = os.fsencode(path)
    if libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, name, how, attributes, len(attributes)):
        number = ctypes.get_errno()
        raise OSError(number, f"mount_setattr: {os.strerror(number)}")


def _read_only_again(path: Path) -> None:
    """Make a part of a file system read-only."""
    if not path.exists():
        return
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    confine.mount(str(path), path, "", MS_BIND | MS_REC)
    confine.mount("none", path, "", confine.MS_REMOUNT | MS_BIND | MS_RDONLY | flags)


def _fill_dev(folder: Path) -> None:
    for name in DEVICES:
        device, target = Path("/dev", name), folder / name
        if device.exists():
            target.parent.mkdir(exist_ok=True)
            target.touch()
            confine.mount(str(device), target, "", MS_BIND)
            _set_mounts(str(target), 0, 0, _MOUNT_ATTR_NODEV)
    for name, link in {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}.items():
        (folder / name).symlink_to(f"/proc/self/fd{link}")
    (folder / "pts").mkdir()
    (folder / "shm").mkdir(mode=0o1777)
    with contextlib.suppress(OSError):  # a kernel, or a container, without: no terminals by SSH
        options = "newinstance,ptmxmode=0666,mode=620"
        confine.mount("devpts", folder / "pts", "devpts", MS_NOSUID | MS_NOEXEC, options)
        (folder / "ptmx").symlink_to("pts/ptmx")


def _unmount(path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), _MNT_DETACH):
        number = ctypes.get_errno()
        raise OSError(number, f"umount2: {os.strerror(number)}")


def _write(launch: Launch) -> None:
    for path, text in launch.files.items():
        file = Path(path)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(text)
    hosts = Path("/etc/hosts")
    if hosts.is_file():
        copy = Path("/run/hosts")
        copy.write_text(launch.hosts)
        copy.chmod(0o644)
        confine.mount(str(copy), hosts, "", MS_BIND)


def main() -> int:
    """Make the node and wait; returns only where it cannot be made."""
    file = Path(sys.argv[1])
    launch = Launch.of(file.read_text())
    file.unlink()
    try:
        note(launch.note)
        make(launch)
    except OSError as wrong:
        where = f" ({os.fsdecode(wrong.filename)})" if wrong.filename else ""
        sys.stderr.write(f"{wrong.strerror}{where}\n")
        return 1
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        signal.sigwait({signal.SIGCHLD})


if __name__ == "__main__":
    sys.exit(main())
