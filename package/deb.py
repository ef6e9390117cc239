"""Make a Debian package of the wheel in dist/: `python package/deb.py [bookworm|trixie]...`.

labctl lies in a private environment, /usr/lib/labctl, which sees Debian's Python packages
(venv(1), --system-site-packages). Those that are recent enough in the release are dependencies;
the others come along, as the wheels that requirements/dev.lock pins by digest. What comes of it is
for one release, because that has one version of Python.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = "usr/lib/labctl"


@dataclass(frozen=True)
class Release:
    """A release of Debian."""

    number: int
    python: str
    debian: tuple[str, ...]
    """Packages of Debian that are recent enough, with the least version that labctl takes."""
    vendored: tuple[str, ...]
    """Python packages that come along, as they are called on PyPI."""


ALWAYS = ("click", "pycdlib", "pyroute2", "python-pcapng")
"""Debian 12 and 13 have pyroute2 0.7, click 8.1, pycdlib 1.12, and no python-pcapng."""
RELEASES = {
    "bookworm": Release(
        12, "3.11",
        ("python3-libvirt (>= 9.0)", "python3-yaml (>= 6.0)", "python3-jinja2 (>= 3.1)"),
        (
            *ALWAYS, "cryptography", "junitparser", "libarchive-c", "numpy", "pydantic",
            "pyelftools", "python-debian", "rich",
        ),
    ),
    "trixie": Release(
        13, "3.13",
        (
            "python3-libvirt (>= 9.0)", "python3-yaml (>= 6.0)", "python3-jinja2 (>= 3.1)",
            "python3-cryptography (>= 42)", "python3-junitparser (>= 3.1)",
            "python3-libarchive-c (>= 5.1)", "python3-numpy (>= 1:2.0)",
            "python3-pydantic (>= 2.7)", "python3-pyelftools (>= 0.31)",
            "python3-debian (>= 1.0)", "python3-rich (>= 13.7)",
        ),
        ALWAYS,
    ),
}  # fmt: skip
BUILD_ONLY = ("python3-dev", "python3-venv", "gcc", "libc6-dev", "libvirt-dev", "pkg-config")
"""Of labctl/system-packages.txt, what only building libvirt-python takes."""
ESSENTIAL = ("perl-base", "util-linux")
"""Every Debian has these, and a package may not ask for them."""
SINCE_13 = {"libarchive13": "libarchive13t64", "libpcap0.8": "libpcap0.8t64"}
"""What Debian 13 calls two of them."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def main() -> None:
    """Make the packages of the releases that are named; of all of them where none is."""
    wheels = sorted((ROOT / "dist").glob("labctl-*.whl"))
    if len(wheels) != 1:
        sys.exit("deb: there is no wheel in dist/\n  run: make dist")
    missing = [one for one in ("dh", "dpkg-buildpackage") if not shutil.which(one)]
    if missing:
        sys.exit(f"deb: {missing[0]} is not installed\n  run: apt-get install debhelper dpkg-dev")
    names = sys.argv[1:] or list(RELEASES)
    for name in names:
        if name not in RELEASES:
            sys.exit(f"deb: there is no release {name}\n  known: {', '.join(RELEASES)}")
    for name in names:
        made = build(wheels[0], name, RELEASES[name])
        print(f"deb: made {made.relative_to(ROOT)}")


def build(wheel: Path, name: str, release: Release) -> Path:
    """Make the package of a release; return its file."""
    version = f"{wheel.name.split('-')[1]}~deb{release.number}"
    folder = ROOT / "build" / "deb" / name / f"labctl-{version}"
    if folder.parent.exists():
        shutil.rmtree(folder.parent)
    tree = folder / "tree"
    _environment(tree / PLACE, wheel, release)
    _share(tree)
    compiled = any((tree / PLACE).rglob("*.so"))
    shutil.copytree(ROOT / "package" / "debian", folder / "debian")
    _control(folder / "debian", release, "amd64" if compiled else "all")
    (folder / "debian" / "changelog").write_text(
        f"labctl ({version}) {name}; urgency=medium\n\n  * See NEWS.md.\n\n"
        f" -- The labctl authors <labctl@localhost.localdomain>  {formatdate(_when())}\n"
    )
    for file in ("README.md", "NEWS.md"):
        shutil.copy(ROOT / file, folder / file)
    (folder / "debian" / "labctl.docs").write_text("README.md\nNEWS.md\n")
    _run(["dpkg-buildpackage", "-b", "-us", "-uc", "-d"], folder)
    made = next(folder.parent.glob("*.deb"))
    return Path(shutil.move(made, ROOT / "dist" / made.name))


def _environment(place: Path, wheel: Path, release: Release) -> None:
    """Make the private environment: labctl, and what Debian has not got, or too old."""
    packages = place / "lib" / f"python{release.python}" / "site-packages"
    packages.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    target = ["--target", str(packages), "--no-compile", "--no-deps"]
    pinned = place.parent / "vendored.txt"
    pinned.write_text(_pinned(release))
    platforms = [word for one in PLATFORMS for word in ("--platform", one)]
    _run(
        [
            *pip, *target, *platforms, "--python-version", release.python, "--only-binary", ":all:",
            "--require-hashes", "-r", str(pinned),
        ],
        ROOT,
    )  # fmt: skip
    pinned.unlink()
    _run([*pip, *target, str(wheel)], ROOT)
    for unwanted in ("bin", "share"):  # scripts and manuals of packages: none is to be run by name
        shutil.rmtree(packages / unwanted, ignore_errors=True)
    for tests in packages.glob("*/tests"):
        if tests.parent.name != "labctl":
            shutil.rmtree(tests)
    (place / "bin").mkdir()
    (place / "bin" / "python3").symlink_to(f"/usr/bin/python{release.python}")
    (place / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = true\nversion = {release.python}\n"
    )
    for program, module in (("labctl", "labctl.__main__"), ("labctl-askpass", _ASKPASS)):
        script = place / "bin" / program
        script.write_text(
            f"#!/{PLACE}/bin/python3\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n"
        )
        script.chmod(0o755)


_ASKPASS = "labctl.guests.askpass"


def _pinned(release: Release) -> str:
    """Return the part of requirements/dev.lock that comes along, with what it needs in turn."""
    blocks: dict[str, str] = {}
    for block in re.split(r"(?m)^(?=[a-z])", (ROOT / "requirements/dev.lock").read_text()):
        head = re.match(r"([a-z0-9-]+)==\S+(?: ; (.*?))? \\", block)
        if head and _applies(head[2] or "", release.python):
            blocks[head[1]] = re.sub(r"(?m)^ *#.*\n?", "", block)
    wanted, found = list(release.vendored), list[str]()
    provided = {re.sub(r"^python3-| .*", "", one) for one in release.debian} | {"labctl"}
    text = (ROOT / "requirements/dev.lock").read_text()
    while wanted:
        name = wanted.pop()
        if name in found or name not in blocks:
            continue
        found.append(name)
        # The lock says by whom each is wanted ("via"): what this one wants is told there.
        for block in re.split(r"(?m)^(?=[a-z])", text):
            head = re.match(r"([a-z0-9-]+)==", block)
            via = re.findall(r"(?m)^ +#(?: via)? +([a-z0-9-]+)$", block)
            if head and name in via and head[1] not in provided:
                wanted.append(head[1])
    return "".join(f"{blocks[name].rstrip()}\n" for name in sorted(found))


def _applies(marker: str, python: str) -> bool:
    """Whether a pin's environment marker means Linux and a version of Python."""
    from packaging.markers import Marker

    full = {"python_full_version": f"{python}.0", "python_version": python}
    return not marker or Marker(marker).evaluate({**full, "sys_platform": "linux"})


def _share(tree: Path) -> None:
    """Put man pages and completions where Debian has them, and the program on the PATH."""
    _run([sys.executable, str(ROOT / "package" / "share.py"), str(tree / "usr/share")], ROOT)
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/labctl").symlink_to("../lib/labctl/bin/labctl")


def _control(folder: Path, release: Release, architecture: str) -> None:
    system = [
        re.sub(r"\s*#.*", "", line).strip()
        for line in (ROOT / "labctl/system-packages.txt").read_text().splitlines()
    ]
    programs = [
        f"{one} | {SINCE_13[one]}" if one in SINCE_13 else one
        for one in system
        if one and one not in BUILD_ONLY and one not in ESSENTIAL
    ]
    major, minor = release.python.split(".")
    python = [f"python3 (>= {release.python}~)", f"python3 (<< {major}.{int(minor) + 1})"]
    depends = ["${misc:Depends}", "${shlibs:Depends}", *python, *release.debian, *programs]
    text = (folder / "control").read_text()
    for name, value in {
        "ARCHITECTURE": architecture,
        "DEPENDS": ",\n ".join(depends),
        "VENDORED": ",\n ".join(sorted(release.vendored)),
    }.items():
        text = text.replace(f"@{name}@", value)
    (folder / "control").write_text(text)


def _when() -> float:
    """Return when the last commit was made, so that the same source gives the same package."""
    done = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return float(done.stdout.strip() or time.time())


def _run(words: list[str], folder: Path) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        told = (done.stdout + done.stderr)[-3000:]
        sys.exit(f"deb: {' '.join(words)} exited with {done.returncode}:\n{told}")


if __name__ == "__main__":
    main()
