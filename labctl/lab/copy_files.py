"""Files and folders from this machine into a guest, and back: one tar stream over SSH.

What a guest sends is somebody's who may lie. Here is written only what was asked for, in a folder
of its own beside where it is to be, which nothing else writes to and in which there are no links;
then it gets its name. Other protocols were weighed: a server of scp's old protocol names the files
itself, sftp needs a server that small guests have not got (docs/decisions.md).
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import shlex
import signal
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from labctl.errors import GuestError, LabctlError, UsageError, host_error
from labctl.lab.lab import Lab
from labctl.lab.node import Node
from labctl.lab.tar_stream import NothingError, Reader, TarError
from labctl.sandbox import owned
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import last_lines, start_as

_APART = ".labctl-cp-"
"""How folders begin in which a copy lies until all of it is there."""
_TOLD = 1 << 16
"""Bytes that are kept of what tar and ssh say."""
WATCH_SECONDS = 1.0


@dataclass
class Copied:
    """What was copied."""

    source: str
    target: str
    """Where it is now; a path of this machine, or of the guest's with its name before it."""
    files: int = 0
    bytes: int = 0
    skipped: int = 0
    """Links, devices and sockets, which are not copied from a guest, nor the latter two to it."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "from": self.source, "to": self.target, "files": self.files, "bytes": self.bytes,
            "skipped": self.skipped,
        }  # fmt: skip


def to_guest(lab: Lab, source: Path, name: str, path: str, deadline: Deadline) -> Copied:
    """Copy a file or a folder of this machine into a guest.

    Where `path` is a folder there it is put into it, under its own name; else that is its name.
    Raises `UsageError` for a source that cannot be read, `GuestError` where the guest does not take
    it, `DeadlineError`.
    """
    if not source.exists():
        raise UsageError(f"there is no file {source}", "name a file or a folder")
    node = lab.node(name)
    path = _from_home(path)
    folder, final = posixpath.split(path.rstrip("/")) if path.strip("/") else ("/", "")
    answer = node.run(["test", "-d", path or "."], check=False, timeout=deadline.left or 1)
    if answer.ok or path.endswith("/") or not final:
        folder, final = path or ".", source.resolve().name
    copied = Copied(str(source), f"{name}:{posixpath.join(folder, final)}")
    line = f"tar -x -f - -C {shlex.quote(_guarded(folder or '.'))}"
    with _running(lab, node, line, deadline, "some of it may be there") as child:
        assert child.stdin
        with contextlib.suppress(BrokenPipeError), child.stdin as pipe:  # why, the guest tells
            _write(pipe, source, final, copied)
    return copied


def from_guest(lab: Lab, name: str, path: str, target: Path, deadline: Deadline) -> Copied:
    """Copy a file or a folder of a guest to this machine.

    Where `target` is a folder here it is put into it, under its own name; else that is its name. A
    file takes the place of one that is there, a folder does not. Raises `UsageError` for a target
    that cannot be, `GuestError` for what the guest does not send, or should not, `DeadlineError`.
    """
    node = lab.node(name)
    folder, root = posixpath.split(_from_home(path).rstrip("/"))
    if root in ("", ".", ".."):
        raise UsageError(f"{name}:{path} names no file", "name a file or a folder of the guest")
    final = target / root if target.is_dir() else target
    if not final.parent.is_dir():
        raise UsageError(f"there is no folder {final.parent}", "name one that is there")
    if final.is_dir():
        raise UsageError(f"{final} is there already, and a folder", "name another place")
    if os.path.lexists(final) and (final.is_symlink() or not final.is_file()):
        raise UsageError(f"{final} is there, and no file", "name another place")
    copied = Copied(f"{name}:{path}", str(final))
    line = f"tar -c -f - -C {shlex.quote(_guarded(folder or '.'))} {shlex.quote('./' + root)}"
    try:
        with contextlib.ExitStack() as made:
            # What a killed copy has left goes with the next one into the same folder.
            apart = made.enter_context(owned.temporary(final.parent, _APART)) / "new"
            apart.mkdir(mode=0o700)
            try:
                with _running(lab, node, line, deadline, "nothing was copied") as child:
                    assert child.stdout
                    _read(cast("BinaryIO", child.stdout), root, apart, copied)
            except GuestError:
                _check_there(node, _from_home(path), deadline)
                raise
            here = apart / root
            if not os.path.lexists(here):
                raise GuestError(f"{name}:{path} is no file and no folder", "nothing was copied")
            if here.is_dir() and os.path.lexists(final):
                raise UsageError(f"{final} is there already", "name another place")
            here.replace(final)
    except OSError as wrong:
        raise host_error(wrong, final) or LabctlError(
            f"{final} cannot be written: {wrong.strerror}", "name another place"
        ) from None
    return copied


def _check_there(node: Node, path: str, deadline: Deadline) -> None:
    """Raise `GuestError` where a guest, from which nothing came, has no such file."""
    words = ["test", "-e", _guarded(path), "-o", "-L", _guarded(path)]
    if node.run(words, check=False, timeout=deadline.left or 1).status == 1:
        folder = shlex.quote(posixpath.dirname(path) or ".")
        raise GuestError(
            f"{node.name} has no file {path}",
            f"see what there is: labctl exec {node.name} -- ls -a {folder}",
        ) from None


def _from_home(path: str) -> str:
    """Return a path without `~`: a guest's commands begin in their user's home."""
    return path[2:] if path.startswith("~/") else "" if path == "~" else path


def _guarded(folder: str) -> str:
    """Return a folder's name that no program takes for an option."""
    return f"./{folder}" if folder.startswith("-") else folder


@contextlib.contextmanager
def _running(
    lab: Lab, node: Node, line: str, deadline: Deadline, hint: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a shell's line in a guest while the `with` block talks to it; it must end well.

    An error of the block counts only where the line has not failed: that is then the reason.
    """
    words = [*lab.sandbox.enter(), *node.words(line, shared=False)]
    child = start_as(words, None)
    said: list[bytes] = []
    reader = threading.Thread(target=_listen, args=(child.stderr, said), daemon=True)
    over = threading.Event()
    gone: list[LabctlError] = []

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            try:
                deadline.check(f"copying by `{line}`")
                node.check()
            except LabctlError as wrong:
                gone.append(wrong)
                _kill(child)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    wrong: TarError | None = None
    reader.start()
    watcher.start()
    try:
        try:
            yield child
        except TarError as error:
            wrong = error
            if not isinstance(error, NothingError):  # it goes on sending
                _kill(child)
        status = child.wait()
    finally:
        over.set()
        _kill(child)
        child.wait()
        watcher.join()
        reader.join(WATCH_SECONDS)
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
    if gone:
        raise gone[0]
    told = last_lines(b"".join(said).decode(errors="replace"), 2)
    if wrong and not isinstance(wrong, NothingError):
        raise GuestError(f"{node.name}: {wrong.message}", wrong.hint)
    if status or wrong:
        raise GuestError(f"{node.name}: {told or f'tar exited with {status}'}", hint)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill ssh(1), which is the child itself or, where nsenter(1) waits for it, a child of its."""
    if child.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            below = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text()
            for pid in below.split():
                os.kill(int(pid), signal.SIGKILL)
    child.kill()


def _listen(pipe: IO[bytes], said: list[bytes]) -> None:
    """Keep the beginning of what is said, and read the rest so that nobody waits."""
    left = _TOLD
    with pipe, contextlib.suppress(OSError):
        while data := os.read(pipe.fileno(), 1 << 16):
            said.append(data[:left])
            left -= len(data[:left])


def _write(pipe: IO[bytes], source: Path, name: str, copied: Copied) -> None:
    """Write an archive of a file or folder of ours: its owner is root there."""

    def shape(one: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (one.isreg() or one.isdir() or one.issym()):
            copied.skipped += 1
            return None
        one.uid = one.gid = 0
        one.uname = one.gname = "root"
        if one.isreg():
            copied.files += 1
            copied.bytes += one.size
        return one

    try:
        # Format: busybox reads GNU's long names, and not all of POSIX.1-2001's.
        with tarfile.open(fileobj=pipe, mode="w|", format=tarfile.GNU_FORMAT) as archive:
            archive.add(source.resolve(), f"./{name}", filter=shape)
    except BrokenPipeError:
        raise
    except OSError as wrong:
        what = wrong.filename or source
        raise UsageError(
            f"{what} cannot be read: {wrong.strerror or wrong}", "name what you may read"
        ) from None


def _read(stream: BinaryIO, root: str, apart: Path, copied: Copied) -> None:
    """Write what a guest sends below `apart`, a folder that nobody else writes to.

    No link is ever made there, so each path leads where its parts say.
    """
    archive = Reader(stream, root)
    folders: list[tuple[Path, int]] = []
    for member in archive.members():
        path = apart.joinpath(*member.path)
        try:
            if member.is_folder:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                folders.append((path, member.mode))
                continue
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with open(os.open(path, flags, 0o600), "wb") as file:  # noqa: PTH123 - by number
                for data in archive.data():
                    file.write(data)
                os.fchmod(file.fileno(), _allowed(member.mode))
                os.utime(file.fileno(), (member.mtime, member.mtime))
        except (FileExistsError, NotADirectoryError):
            raise TarError(f"the guest sends {'/'.join(member.path)[:200]} twice") from None
        copied.files += 1
        copied.bytes += member.size
    copied.skipped = archive.skipped
    for path, mode in reversed(folders):
        path.chmod(_allowed(mode) | 0o700)


def _allowed(mode: int) -> int:
    """Return permissions as this user's umask has them."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mode & ~mask
