"""Run a command as an ordinary user who may make namespaces, without changing this host.

Run by root as `as_user.py HOME PATH... -- COMMAND...`. All is done in a mount namespace of its own,
so nobody else sees it and it goes with the command: ranges in /etc/subuid and /etc/subgid, a
/dev/net/tun that everybody may open, and each PATH readable where a private folder (such as /root)
is above it. HOME is a folder of the user's, writable, with root's cache of images inside.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import stat
import subprocess
import sys
from pathlib import Path

USER = "nobody"
NEWNS = 0x00020000
MASK = 0o022


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def hidden_below(path: Path) -> Path | None:
    """Return the topmost folder on the way to `path` that others may not pass."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def expose(paths: list[Path], scratch: Path) -> None:
    """Make paths reachable: a private folder above them is replaced by one that holds only them."""
    private: dict[Path, list[Path]] = {}
    for path in sorted({path.resolve() for path in paths}):
        folder = hidden_below(path)
        inside = private.setdefault(folder, []) if folder else []
        if folder and not any(path.is_relative_to(other) for other in inside):
            inside.append(path)
    for number, (folder, inside) in enumerate(private.items()):
        kept = []
        for index, path in enumerate(inside):
            copy = scratch / f"{number}-{index}"
            copy.mkdir()
            mount("--rbind", str(path), str(copy))
            kept.append((copy, path))
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(folder))
        for copy, path in kept:
            path.mkdir(parents=True)
            mount("--rbind", str(copy), str(path))


def main(home: Path, paths: list[Path], command: list[str]) -> None:
    os.umask(MASK)
    user = pwd.getpwnam(USER)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    mount("--make-rprivate", "/")
    # A file system that lets devices be used, whatever /tmp may be.
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(home))
    ranges = [Path("/etc", name) for name in ("subuid", "subgid")]
    if not all(file.exists() for file in ranges):  # there must be something to mount over
        shutil.copytree("/etc", home / "etc", symlinks=True)
        mount("--bind", str(home / "etc"), "/etc")
    for file in ranges:
        own = home / file.name
        own.write_text(f"{USER}:200000:65536\n")
        file.touch()
        mount("--bind", str(own), str(file))
    tun = home / "tun"
    os.mknod(tun, stat.S_IFCHR, os.makedev(10, 200))
    tun.chmod(0o666)
    mount("--bind", str(tun), "/dev/net/tun")
    images = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labctl/images"
    cache = home / "cache/labctl"
    (cache / "images").mkdir(parents=True)
    if images.is_dir():
        mount("--bind", "-o", "ro", str(images), str(cache / "images"))
    (home / "scratch").mkdir()
    expose(paths, home / "scratch")
    for folder in (cache.parent, cache, home):
        os.chown(folder, user.pw_uid, user.pw_gid)
    os.chdir(home)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    kept = {key: value for key, value in os.environ.items() if key.startswith("LABCTL_")}
    kept |= {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    os.execve(command[0], command, kept)


if __name__ == "__main__":
    cut = sys.argv.index("--")
    main(Path(sys.argv[1]), [Path(word) for word in sys.argv[2:cut]], sys.argv[cut + 1 :])
