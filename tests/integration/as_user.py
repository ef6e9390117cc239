"""Run a command as an ordinary user who may make namespaces, without changing this host.

Run by root as `as_user.py [OPTION...] HOME PATH... -- COMMAND...`. All is done in a mount namespace
of its own, so nobody else sees it and it goes with the command: ranges in /etc/subuid and
/etc/subgid, a /dev/net/tun that everybody may open, and each PATH readable where a private folder
(such as /root) is above it. HOME is a folder of the user's, writable, with root's cache of images
inside.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import os
import pwd
import shutil
import stat
import subprocess
import sys
from pathlib import Path

USER = "nobody"
GROUP = "virtual"
NEWNS = 0x00020000
MASK = 0o022


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def device(path: Path, minor: int, mode: int, group: int = 0) -> Path:
    """Make a device node of the kernel's group "misc"."""
    os.mknod(path, stat.S_IFCHR, os.makedev(10, minor))
    os.chown(path, 0, group)
    path.chmod(mode)
    return path


def own_devices(folder: Path) -> None:
    """Replace /dev by a folder in which nodes can be made: the host's are there, but for kvm."""
    folder.mkdir()
    for entry in Path("/dev").iterdir():
        if entry.name == "kvm":
            continue
        copy = folder / entry.name
        if entry.is_symlink():
            copy.symlink_to(entry.readlink())
        elif entry.is_dir():
            copy.mkdir()
            mount("--rbind", str(entry), str(copy))
        else:
            copy.touch()
            mount("--bind", str(entry), str(copy))
    mount("--rbind", str(folder), "/dev")


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


def main(words: argparse.Namespace) -> None:
    os.umask(MASK)
    home: Path = words.home
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
        own.write_text("" if words.no_ranges else f"{USER}:200000:65536\n")
        if not file.exists():
            file.touch()
        mount("--bind", str(own), str(file))
    if words.no_tun:
        (home / "net").mkdir()
        mount("--bind", str(home / "net"), "/dev/net")
    else:
        mount("--bind", str(device(home / "tun", 200, words.tun)), "/dev/net/tun")
    if words.kvm_group:
        own_devices(home / "dev")
        device(Path("/dev/kvm"), 232, 0o660, words.kvm_group)
    if words.in_database:
        own = home / "group"
        own.write_text(f"{Path('/etc/group').read_text()}{GROUP}:x:{words.kvm_group}:{USER}\n")
        mount("--bind", str(own), "/etc/group")
    for program in words.without:
        (home / "empty").touch()
        mount("--bind", str(home / "empty"), shutil.which(program) or program)
    if words.hugetlbfs:
        (home / "huge").mkdir()
        mount("-t", "hugetlbfs", "-o", "mode=755", "hugetlbfs", str(home / "huge"))
    images = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labctl/images"
    cache = home / "cache/labctl"
    (cache / "images").mkdir(parents=True)
    for image in images.glob("[!.]*-*"):  # the folder above them is root's alone
        (cache / "images" / image.name).mkdir()
        mount("--bind", "-o", "ro", str(image), str(cache / "images" / image.name))
    (home / "scratch").mkdir()
    expose(words.paths, home / "scratch")
    for folder in (cache.parent, cache, cache / "images", home):
        os.chown(folder, user.pw_uid, user.pw_gid)
    os.chdir(home)
    os.setgroups([words.kvm_group] if words.in_session else [])
    os.setgid(words.kvm_group if words.newgrp else user.pw_gid)
    os.setuid(user.pw_uid)
    kept = {key: value for key, value in os.environ.items() if key.startswith("LABCTL_")}
    kept |= {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    os.execve(words.command[0], words.command, kept)


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    octal = functools.partial(int, base=8)
    parser.add_argument("--kvm-group", type=int, help="whose /dev/kvm is, with mode 0660")
    parser.add_argument("--in-session", action="store_true", help="the user acts in that group")
    parser.add_argument("--newgrp", action="store_true", help="acts in it as newgrp(1) does")
    parser.add_argument("--in-database", action="store_true", help="and has it in /etc/group")
    parser.add_argument("--hugetlbfs", action="store_true", help="one at HOME/huge, as systemd's")
    parser.add_argument("--no-ranges", action="store_true", help="empty /etc/subuid and subgid")
    parser.add_argument("--tun", type=octal, default=0o666, help="the mode of /dev/net/tun")
    parser.add_argument("--no-tun", action="store_true", help="an empty /dev/net")
    parser.add_argument("--without", action="append", default=[], help="a program to hide")
    parser.add_argument("home", type=Path)
    parser.add_argument("paths", type=Path, nargs="*")
    cut = words.index("--")
    found = parser.parse_args(words[:cut])
    found.command = words[cut + 1 :]
    return found


if __name__ == "__main__":
    main(parsed(sys.argv[1:]))
