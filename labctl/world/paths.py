"""Where labctl keeps things: the XDG base directories, and short runtime paths for sockets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from labctl.errors import HostError
from labctl.world import owned
from labctl.world.trust import check_private


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

    Like the two below it raises `HostError` where the user has no home and names no folder.
    """
    return _xdg("XDG_CONFIG_HOME", ".config")


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


def runtime() -> Path:
    """Return the folder that holds one directory a running lab, made if it is missing.

    It is short, because the path of a UNIX socket has 107 bytes at most (unix(7)). Root has one
    place however it became root; what is in it is private directory by directory. It may hold
    other things: labctl removes what bears its mark (`labctl.world.owned`), and nothing else.
    Raises `HostError` when the folder cannot be made, belongs to somebody else or can be written to
    by others.
    """
    given = os.environ.get("LABCTL_RUNTIME_DIR", "")
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    if given.startswith("/"):
        folder = Path(given) / "labctl"
    elif os.geteuid() == 0:
        folder = Path("/run/labctl")
    elif session.startswith("/") and os.access(session, os.W_OK):
        folder = Path(session) / "labctl"
    else:
        folder = Path(f"/tmp/labctl-{os.geteuid()}")
    check_private(folder, "LABCTL_RUNTIME_DIR")
    try:
        owned.claim(folder, mode=0o711)
        seen = folder.lstat()
    except OSError as reason:
        raise HostError(
            f"{folder} cannot be made: {reason.strerror}",
            "set LABCTL_RUNTIME_DIR to a folder of yours (a short path)",
        ) from None
    if seen.st_uid != os.geteuid() or not stat.S_ISDIR(seen.st_mode):
        raise HostError(
            f"{folder} is not a folder of yours",
            "set LABCTL_RUNTIME_DIR to a folder that is (a short path)",
        )
    return folder
