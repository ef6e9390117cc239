"""Why a host does not let a user make namespaces, and what changes that."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
from pathlib import Path

from labctl.errors import HostError

RANGE = 65536
FIRST = 100000
"""Where useradd(8) begins to give ranges (SUB_UID_MIN in login.defs(5))."""
ETC = Path("/etc")
PROC = Path("/proc")
SYS = Path("/sys")


def hint(reason: str) -> str:
    """Say what to change on this host, where `reason` is what was said when it refused."""
    if os.geteuid() == 0:
        return "run on a host (or in a container) that grants CAP_SYS_ADMIN"
    if sysctl := _sysctl():
        keep = f"to keep it: echo {sysctl} >>/etc/sysctl.d/labctl.conf"
        return f"as root, run: sysctl -w {sysctl} ({keep})"
    if "unshare failed: Permission denied" in reason and _apparmor():
        # EACCES is an LSM's; the kernel itself and seccomp say EPERM (apparmor_userns_create()).
        return (
            "an AppArmor profile denies it: as root, run: dmesg | grep userns_create, and allow "
            "userns in the profile that it names (or take that away: apparmor_parser -R FILE)"
        )
    if _status().get("Seccomp") == "2" and "unshare failed" in reason:
        return "a container forbids it: start it with --security-opt seccomp=unconfined, or be root"
    if "mount /proc" in reason:
        return (
            "a container hides some of /proc: start it with --security-opt systempaths=unconfined"
        )
    if "idmap" in reason:
        return "as root, run: apt-get install --reinstall uidmap"
    return "see what the kernel says of it: as root, run: dmesg | tail"


def no_ids() -> HostError | None:
    """Return why root is alone in an ordinary user's sandbox; None where others can be."""
    if not shutil.which("newuidmap", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"):
        return HostError("newuidmap is not installed", "as root, run: apt-get install uidmap")
    try:
        known = pwd.getpwuid(os.getuid())
    except KeyError:  # unshare(1) and newuidmap(1) ask for the name
        return HostError(
            f"the user database does not know user {os.getuid()}", "act as a user that it knows"
        )
    user = known.pw_name
    if os.getgid() != known.pw_gid:  # newuidmap(1) refuses
        return HostError(
            "you act in another group than your own", "leave the shell of newgrp or sg"
        )
    if _status().get("NoNewPrivs") == "1":
        return HostError("newuidmap gains no rights here (no_new_privs)", "leave this sandbox")
    missing, free = [], FIRST
    for name, option in (("subuid", "--add-subuids"), ("subgid", "--add-subgids")):
        theirs, end = _ranges(ETC / name, user)
        free = max(free, end)
        if not theirs:
            missing.append((name, option))
    if not missing:
        return None
    files = " and ".join(f"/etc/{name}" for name, _ in missing)
    options = " ".join(f"{option} {free}-{free + RANGE - 1}" for _, option in missing)
    return HostError(f"{files} give {user} no ids", f"as root, run: usermod {options} {user}")


def _ranges(file: Path, user: str) -> tuple[bool, int]:
    """Return whether a user has a range in a file of subuid(5), and where all ranges end."""
    has, end = False, 0
    with contextlib.suppress(OSError):
        for line in file.read_text(errors="replace").splitlines():
            owner, _, numbers = line.strip().partition(":")
            start, _, count = numbers.partition(":")
            if start.isdecimal() and count.isdecimal() and int(count):
                end = max(end, int(start) + int(count))
                has = has or owner in (user, str(os.getuid()))
    return has, end


def _sysctl() -> str:
    """Return the setting that forbids namespaces, as it should be; empty where none does."""
    for fix, bad, better in (
        *((f"user.max_{kind}_namespaces", "0", "10000") for kind in ("user", "mnt", "pid", "net")),
        ("kernel.unprivileged_userns_clone", "0", "1"),  # Debian's kernels
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),  # Ubuntu's
    ):
        with contextlib.suppress(OSError):
            if (PROC / "sys" / fix.replace(".", "/")).read_text().strip() == bad:
                return f"{fix}={better}"
    return ""


def _apparmor() -> bool:
    with contextlib.suppress(OSError):
        return (SYS / "module/apparmor/parameters/enabled").read_text().strip() == "Y"
    return False


def _status() -> dict[str, str]:
    with contextlib.suppress(OSError):
        lines = (PROC / "self/status").read_text().splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {}
