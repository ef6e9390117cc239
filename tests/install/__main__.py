"""`make try-install`: labctl installed as users do, in a Debian that has nothing else.

`python -m tests.install [--suite bookworm|trixie]... [--way make|wheel|deb]...`. It takes root,
mmdebstrap, and what `make dist deb` has put into dist/. Each try types the documented commands and
no others, and ends with the record of `router-hop`, which must be a pass. What was said and the
record are in build/install/SUITE-WAY/.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "install"
SUITES = ("bookworm", "trixie")
APT = "apt-get install --yes --quiet --no-install-recommends"
BUILDING = "python3-venv python3-dev gcc libc6-dev libvirt-dev pkg-config"
"""What `pip` needs to build libvirt-python: docs/install.md."""
RUNNING = (
    "qemu-system-x86 libvirt-daemon libvirt-daemon-driver-qemu uidmap openssh-client iputils-ping "
    "debian-archive-keyring kmod libarchive13 qemu-utils e2fsprogs grub-common libpcap0.8"
)
WAYS = {
    "make": [f"{APT} make sudo git", "cd /src", "make demo", ". .venv/bin/activate"],
    "wheel": [
        f"{APT} {BUILDING} {RUNNING}",
        "python3 -m venv /opt/labctl",
        "/opt/labctl/bin/pip install --quiet /src/dist/labctl-*.whl",
        "PATH=/opt/labctl/bin:$PATH",
        "test -e /opt/labctl/share/man/man1/labctl-up.1",
        "labctl experiment router-hop",
    ],
    "deb": [
        APT + " /src/dist/labctl_*~deb${NUMBER}_*.deb",
        "test -e /usr/share/man/man1/labctl-up.1.gz",
        "test -e /usr/share/bash-completion/completions/labctl",
        "labctl experiment router-hop",
    ],
}
"""What is typed, by way."""
AFTER = ["labctl version", "labctl results show last --json >/src/result.json", "labctl status"]
ENTER = """
set -eu
mount --make-rprivate /
mount --bind "$0" "$0"
cd "$0"
mount --rbind /dev dev
mount -t proc proc proc
mount --rbind /sys sys
mount -t tmpfs tmpfs run
mkdir -p .outside
pivot_root . .outside
cd /
umount -l .outside
exec /bin/bash -euxc "$1"
"""
"""Makes a folder the root of a mount namespace of its own, as a container does, and runs a line."""
PASSED_ON = ("PIP_", "SSL_CERT", "http_proxy", "https_proxy", "no_proxy", "LABCTL_ACCEL")
SECONDS = 5400


def main() -> None:
    """Try each way in each suite; exit with 1 where one did not end in a recorded pass."""
    words = argparse.ArgumentParser(prog="make try-install", description=__doc__)
    words.add_argument("--suite", action="append", choices=SUITES, dest="suites")
    words.add_argument("--way", action="append", choices=list(WAYS), dest="ways")
    words.add_argument("--base", type=Path, help="SUITE.tar of minimal root file systems")
    given = words.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # the folder goes all the same
        signal.signal(number, lambda *_: sys.exit("try-install: interrupted"))
    if os.geteuid() != 0:
        sys.exit("try-install: a root file system takes root\n  run: sudo make try-install")
    if not shutil.which("mmdebstrap") and not given.base:
        sys.exit("try-install: mmdebstrap is not installed\n  run: apt-get install mmdebstrap")
    failed = [
        f"{suite} {way}"
        for suite in given.suites or SUITES
        for way in given.ways or WAYS
        if not _try(suite, way, given.base)
    ]
    sys.exit(f"try-install: no pass: {', '.join(failed)}" if failed else 0)


def _try(suite: str, way: str, base: Path | None) -> bool:
    """Install in one way in one suite; whether it ended in a recorded pass."""
    kept = KEPT / f"{suite}-{way}"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="labctl-install-", dir="/var/tmp") as folder:
        place = Path(folder)
        with (kept / "log.txt").open("w") as log:
            _unpack(place, suite, base, log)
            _source(place)
            number = {"bookworm": "12", "trixie": "13"}[suite]
            line = "\n".join([f"NUMBER={number}", "apt-get update -q", *WAYS[way], *AFTER])
            status = _inside(place, line, log)
        told = place / "src" / "result.json"
        verdict = ""
        if told.is_file():
            shutil.copy(told, kept / "result.json")
            verdict = json.loads(told.read_text()).get("verdict", "")
    passed = status == 0 and verdict == "pass"
    words = "pass" if passed else f"NO PASS (exit {status}, verdict {verdict or 'none'})"
    print(f"{suite} {way}: {words}, {time.monotonic() - begun:.0f} s: {kept}/log.txt", flush=True)
    return passed


def _unpack(place: Path, suite: str, base: Path | None, log: TextIO) -> None:
    """Make a minimal Debian in a folder."""
    if base is not None:
        subprocess.run(["tar", "-C", place, "-xf", base / f"{suite}.tar"], check=True)
        return
    words = ["mmdebstrap", "--variant=minbase", "--include=ca-certificates", suite, str(place)]
    subprocess.run(words, stdout=log, stderr=log, check=True)


def _source(place: Path) -> None:
    """Put the checkout and the packages into /src, and what the host knows of its network."""
    source = place / "src"
    source.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    if (ROOT / "dist").is_dir():
        shutil.copytree(ROOT / "dist", source / "dist")
    shutil.copy("/etc/resolv.conf", place / "etc" / "resolv.conf")
    for variable in ("PIP_CERT", "SSL_CERT_FILE"):
        if file := os.environ.get(variable):
            (place / file.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place / file.lstrip("/"))


def _inside(place: Path, line: str, log: TextIO) -> int:
    """Run lines of bash with a folder as root; what they leave running ends with them."""
    kept = {name: text for name, text in os.environ.items() if name.startswith(PASSED_ON)}
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", ENTER]
    environment = {
        **kept, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive",
    }  # fmt: skip
    print(shlex.join(words[:5]), file=log, flush=True)
    try:
        return subprocess.run(
            [*words, str(place), line],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        return 124


if __name__ == "__main__":
    main()
