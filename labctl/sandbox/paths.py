"""Where labctl keeps things: the XDG base directories, and short runtime paths for sockets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from labctl.errors import HostError
from labctl.sandbox import owned
from labctl.sandbox.trusted import check_private


def _xdg(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    # The XDG specification: a relative path is invalid and is ignored.
    if value.startswith("/"):
        return Path(value) / "labctl"
    try:
        return Path.home() / default / "labctl"
    except RuntimeError:
        raise HostError(
            "there is no home folder: HOME is not set, and the user database has none",
            f"set HOME or {variable} to a folder of yours",
        ) from None


def config() -> Path:
    """Return the folder of what the user has written: recipes of images.

    Like the two below it raises `HostError` where others can write to it, and where the user has no
    home and names no folder.
    """
    return check_private(_xdg("XDG_CONFIG_HOME", ".config"), "XDG_CONFIG_HOME")


def cache() -> Path:
    """Return the folder of what can be made again: images, packages, capabilities.

    Raises `HostError` where others can write to it.
    """
    return check_private(_xdg("XDG_CACHE_HOME", ".cache"), "XDG_CACHE_HOME")


def state() -> Path:
    """Return the folder of what is to be kept: results.

    Raises `HostError` where others can write to it.
    """
    return check_private(_xdg("XDG_STATE_HOME", ".local/state"), "XDG_STATE_HOME")


def runtimes() -> list[Path]:
    """Return every folder where labs of this user may have been made, whether it is there or not.

    The folder of a session goes with it, and a shell that outlives it, or cron, has another.
    """
    given = os.environ.get("LABCTL_RUNTIME_DIR", "")
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    if given.startswith("/"):
        return [Path(given) / "labctl"]
    if os.geteuid() == 0:
        return [Path("/run/labctl")]
    sessions = [session] if session.startswith("/") else []
    usual = f"/run/user/{os.geteuid()}"
    folders = [Path(one) / "labctl" for one in dict.fromkeys([*sessions, usual])]
    return [*folders, Path(f"/tmp/labctl-{os.geteuid()}")]


def is_ours(folder: Path) -> bool:
    """Whether a folder is there, and of this user: what is in another's is not to be believed."""
    try:
        seen = folder.lstat()
    except OSError:
        return False
    return seen.st_uid == os.geteuid() and stat.S_ISDIR(seen.st_mode)


def runtime() -> Path:
    """Return the folder that holds one directory a running lab, made if it is missing.

    It is short, because the path of a UNIX socket has 107 bytes at most (unix(7)). Root has one
    place however it became root; what is in it is private directory by directory. It may hold
    other things: labctl removes what bears its mark (`labctl.sandbox.owned`), and nothing else.
    Raises `HostError` when the folder cannot be made, belongs to somebody else or can be written to
    by others.
    """
    folder, *others = runtimes()
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    if others and not (session.startswith("/") and os.access(session, os.W_OK)):
        folder = others[-1]
    check_private(folder, "LABCTL_RUNTIME_DIR")
    try:
        owned.claim(folder, mode=0o711)
    except OSError as reason:
        raise HostError(
            f"{folder} cannot be made: {reason.strerror}",
            "set LABCTL_RUNTIME_DIR to a folder of yours (a short path)",
        ) from None
    if not is_ours(folder):
        raise HostError(
            f"{folder} is not a folder of yours",
            "set LABCTL_RUNTIME_DIR to a folder that is (a short path)",
        )
    return folder
