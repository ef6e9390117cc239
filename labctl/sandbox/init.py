"""PID 1 of a sandbox. Standard library only: it starts in a few hundredths of a second.

It makes `/run` private, reaps orphans, and ends the sandbox (everything in it, and its directory)
when told to or when the process that made it is gone before the sandbox was kept. Run as
`python -I -S init.py DIRECTORY LIFELINE_FD MARK`, where the mark only tells this sandbox from
others (`labctl.sandbox.init_scan`). While it runs the directory is locked (flock(2)), which shows
also where its process does not, in another process namespace. The lifeline is one end of a socket
pair:

- PID 1 writes `ready` once the sandbox can be entered, `refused: REASON` where it may not mount, or
  `failed: ERRNO FILE` where something else went wrong;
- the maker writes `keep` when the sandbox shall outlive it;
- end of file before `keep`: the maker died, so the sandbox ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import grp
import os
import pwd
import select
import signal
import socket
import struct
import sys
import time

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND = 1, 2, 4, 8, 0x1000
"""linux/mount.h."""
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
KEEP_SIZE, PUNCH_HOLE = 0x01, 0x02
"""linux/falloc.h."""
LOGS = ("console", "embed/log/qemu", "links", "namespaces")
"""What guests and programs fill, below the sandbox's directory."""
KEPT_HEAD, KEPT_TAIL = 1 << 20, 4 << 20
"""Bytes of a log that are kept."""
WHOLE = 1 << 16
"""A hole begins and ends at a multiple of this: within a block of any file system it would leave
zeros to be read."""
TRIM_SECONDS = 1.0
MARK = ".labctl-made"
"""The file by which a folder of labctl's is known (`labctl.sandbox.owned`)."""
_libc = ctypes.CDLL(None, use_errno=True)


class RefusedError(Exception):
    """This host does not let us use our namespaces; the message says what was refused."""


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """Mount a file system by mount(2); raises `RefusedError`."""
    words = [os.fsencode(word) for word in (source, target, kind)]
    if _libc.mount(*words, ctypes.c_ulong(flags), options.encode()) != 0:
        # As mount(8) says it.
        raise RefusedError(f"mount: {target}: {os.strerror(ctypes.get_errno()).lower()}.")


def setup_mounts(directory: str, inside: int) -> None:
    """Make `/run` private but for the sandbox's own directory, and bring loopback up.

    `/sys` becomes one that shows the links of the sandbox instead of the host's (sysfs shows the
    network namespace of who mounts it), and is read-only. A container that masks parts of its own
    /sys forbids it to ordinary users; there it stays.
    """
    mount("labctl", "/run", "tmpfs", options="mode=755")
    os.makedirs("/run/netns", exist_ok=True)
    if not os.path.isdir(directory):  # it lay below /run: put it back at the same path
        os.makedirs(directory, mode=0o700)
        # By its descriptor: the path itself is hidden by now.
        mount(f"/proc/{os.getpid()}/fd/{inside}", directory, "", MS_BIND)
    with contextlib.suppress(RefusedError):
        mount("labctl", "/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anything:
        try:
            fcntl.ioctl(anything, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        except PermissionError as reason:  # a security module that lets us mount: not about a file
            raise RefusedError(f"bringing lo up: {reason.strerror}") from None


def name_qemu_user(directory: str) -> None:
    """Let libvirt find the user it looks up by name before it reads its configuration.

    Debian's libvirt asks for `libvirt-qemu` (virQEMUDriverConfigNew) even where qemu.conf names
    another; only its daemon's package makes that user. Here the name exists in the sandbox alone.
    """
    for path, lookup, line in (
        ("/etc/passwd", pwd.getpwnam, "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin"),
        ("/etc/group", grp.getgrnam, "libvirt-qemu:x:64055:"),
    ):
        try:
            lookup("libvirt-qemu")
        except KeyError:
            copy = os.path.join(directory, os.path.basename(path))
            with open(path, "rb") as old, open(copy, "wb") as new:
                os.fchmod(new.fileno(), 0o644)
                new.write(old.read().rstrip() + f"\n{line}\n".encode())
            mount(copy, path, "", MS_BIND)


def trim(directory: str) -> None:
    """Take the middle out of logs that guests fill: what they say has no end, memory has one."""
    for place in LOGS:
        try:
            entries = os.scandir(os.path.join(directory, place))
        except OSError:
            continue
        with entries, contextlib.suppress(OSError):
            for entry in entries:
                if entry.name.endswith(".log") and entry.is_file(follow_symlinks=False):
                    info = entry.stat(follow_symlinks=False)
                    if info.st_blocks * 512 > KEPT_HEAD + 2 * KEPT_TAIL:
                        punch(entry.path, info.st_size)


def punch(path: str, size: int) -> None:
    """Make a hole in a file but for its beginning and its end (fallocate(2)).

    Writers that append are not disturbed, and no byte moves.
    """
    end = (size - KEPT_TAIL) // WHOLE * WHOLE
    begin, length = ctypes.c_int64(KEPT_HEAD), ctypes.c_int64(end - KEPT_HEAD)
    handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # On a file system without holes the log goes on growing.
        _libc.fallocate64(handle, PUNCH_HOLE | KEEP_SIZE, begin, length)
    finally:
        os.close(handle)


def reap() -> None:
    """Collect every child that has ended; orphans are ours too."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def remove_inside(inside: int) -> None:
    """Remove all that is in the directory open as `inside` but its mark; what cannot be stays."""
    import shutil

    with contextlib.suppress(OSError), os.scandir(inside) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.name, ignore_errors=True, dir_fd=inside)
            elif entry.name != MARK:
                with contextlib.suppress(OSError):
                    os.unlink(entry.name, dir_fd=inside)


def remove(name: str, parent: int, inside: int) -> None:
    """Remove the directory that is open as `inside`, but no other that has its name by now.

    `parent` is an open directory too. What cannot be removed stays, and the mark with it: whoever
    is killed meanwhile leaves something that is known for labctl's.
    """
    remove_inside(inside)
    with contextlib.suppress(OSError):
        there = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if os.path.samestat(there, os.fstat(inside)) and set(os.listdir(inside)) <= {MARK}:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(MARK, dir_fd=inside)
            os.rmdir(name, dir_fd=parent)


def end(name: str, parent: int, inside: int) -> None:
    """Kill everything in the sandbox, remove its directory, and go: the kernel takes the rest."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    remove(name, parent, inside)
    os._exit(0)


def main(directory: str, lifeline: socket.socket) -> None:
    """Serve until told to end."""
    parent = os.open(os.path.dirname(directory), os.O_PATH | os.O_DIRECTORY)
    inside = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(inside, fcntl.LOCK_EX)
    name = os.path.basename(directory)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    stopped: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        setup_mounts(directory, inside)
        name_qemu_user(directory)
    except RefusedError as reason:
        lifeline.send(f"refused: {reason}".encode())
        end(name, parent, inside)
    except OSError as reason:
        lifeline.send(f"failed: {reason.errno or 0} {reason.filename or directory}".encode())
        end(name, parent, inside)
    watched = [wake_read, lifeline.fileno()]
    try:
        lifeline.send(b"ready")
    except OSError:  # the maker is gone already
        end(name, parent, inside)
    # For the end, when it may be gone from the disk; not before the maker is told, for it waits.
    import shutil  # noqa: F401

    trimmed = time.monotonic()
    while not stopped:
        readable, _, _ = select.select(watched, [], [], TRIM_SECONDS)
        if time.monotonic() - trimmed >= TRIM_SECONDS:
            trim(directory)
            trimmed = time.monotonic()
        if lifeline.fileno() in readable:
            try:
                word = lifeline.recv(16)
            except OSError:  # the maker died with our word unread: the kernel resets the pair
                break
            if word != b"keep":
                break
            watched.remove(lifeline.fileno())
        if wake_read in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_read, 4096)
        reap()
    end(name, parent, inside)


if __name__ == "__main__":
    main(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))
