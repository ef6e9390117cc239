"""Where images of runners are kept: the user's cache, under a digest of all they are made of."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import secrets
import time
from pathlib import Path
from typing import TextIO

from labctl.sandbox import owned, paths
from labctl.sandbox.deadline import Deadline

from .image import CHECKOUT, HERE, Image, authorities, build, remove, say

WAIT_SECONDS = 3600.0
LOOK_SECONDS = 0.5


def digest(suite: str) -> str:
    """Return the SHA-256, in hex, over all that decides what is in an image."""
    found = hashlib.sha256(suite.encode())
    # Of pyproject.toml the package's part counts; what follows are the settings of the tools.
    project, _, _ = (CHECKOUT / "pyproject.toml").read_bytes().partition(b"\n[tool.ruff")
    found.update(project)
    files = [HERE / "image.py", HERE / "make.sh", HERE / "provision.sh", CHECKOUT / "Makefile"]
    files += [CHECKOUT / "labctl/system-packages.txt"]
    files += [*sorted((CHECKOUT / "requirements").iterdir()), *authorities()]
    for file in files:
        content = file.read_bytes()
        found.update(f"{file.name} {len(content)}\0".encode() + content)
    return found.hexdigest()


def get(suite: str, *, anew: bool = False) -> Image:
    """Return the image of a suite, built when there is none (or `anew`).

    Raises `subprocess.CalledProcessError` when a program that builds it fails (its words are on
    standard error), and `DeadlineError` when somebody else builds one for too long.
    """
    top = paths.cache() / "runner"
    owned.claim(top)
    image = Image(suite, top / f"{suite}-{digest(suite)[:16]}")
    with (top / f".{suite}.lock").open("w") as lock:
        _wait_for(lock, suite)
        if anew or not image.folder.exists():
            say(f"building a {suite} machine: some minutes, once")
            building = f".building-{suite}-"
            for left in top.glob(f"{building}*"):  # by a build that was killed
                remove(left)
            part = top / f"{building}{secrets.token_hex(4)}"
            owned.make(part)
            try:
                made = Image(suite, part / "image")
                made.folder.mkdir()
                owned.mark(made.folder, image.folder)
                build(made, part)
                for old in top.glob(f"{suite}-*"):
                    if old == image.folder or not _used(old):
                        remove(old)
                made.folder.rename(image.folder)
                if held := _in_use.pop(image.folder, None):  # on what is no more
                    os.close(held)
            finally:
                remove(part)
        if image.folder not in _in_use:
            _in_use[image.folder] = _lock_file(image.folder)
            fcntl.flock(_in_use[image.folder], fcntl.LOCK_SH)
    return image


def _wait_for(lock: TextIO, suite: str) -> None:
    """Take the lock on a suite's images; whoever builds one ends first."""
    deadline = Deadline(WAIT_SECONDS, f"waiting for another build of a {suite} machine")
    for attempt in itertools.count():
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if not attempt:
            say(f"another process builds a {suite} machine: waiting for it")
        deadline.check(hint=f"end it, if it hangs: fuser -v {lock.name}")
        time.sleep(LOOK_SECONDS)


_in_use: dict[Path, int] = {}
"""Folders that this process boots from, each with its lock: another checkout's build leaves them,
for whoever logs in needs the key."""


def _lock_file(folder: Path) -> int:
    return os.open(folder / "known_hosts", os.O_RDONLY | os.O_CLOEXEC)


def _used(folder: Path) -> bool:
    """Whether some process boots from an image."""
    with contextlib.suppress(FileNotFoundError):  # it is not whole
        lock = _lock_file(folder)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
    return False
