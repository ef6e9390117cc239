"""The Debian archive: which mirror, fetching packages by their pinned sums, and making locks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event as Flag
from threading import Lock as Mutex

from debian.deb822 import Packages

from labctl.errors import HostError, LabctlError, UsageError, host_error
from labctl.events import Emit, Event
from labctl.images.locks import Lock, LockedPackage
from labctl.images.recipe import LoadedRecipe, Recipe
from labctl.sandbox import owned, paths
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import run

MIRROR_VARIABLE = "LABCTL_DEBIAN_MIRROR"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PARTS = re.compile(r"\blinux-(?:base|binary|modules)-[0-9][^ ,|(]*")
"""Since Linux 7 Debian's linux-image-… holds nothing itself, but depends on these."""
_AT_ONCE = 4
_BLOCK = 1 << 16
_STALL = 30.0
"""Seconds without a byte after which a mirror counts as silent."""


def mirror(deadline: Deadline) -> str:
    """Return the base URI of the Debian archive, without a slash at its end.

    `LABCTL_DEBIAN_MIRROR` if set, else what this host's apt uses for Debian's own main archive.
    """
    hint = f"set {MIRROR_VARIABLE} to the base URI of a Debian archive"
    chosen = os.environ.get(MIRROR_VARIABLE, "").strip()
    if not chosen:
        lines = run(
            ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(CODENAME)|$(REPO_URI)"],
            deadline=deadline,
            package="apt",
        ).stdout.splitlines()
        plain = re.compile(r"Debian\|[a-z]+\|(?=https?://)")
        found = [line for line in lines if plain.match(line)]
        if not found:
            raise HostError(
                "apt on this host knows no Debian archive", f"run: apt-get update; or {hint}"
            )
        chosen = found[0].split("|")[2]
    if not re.match(r"(https?|file)://", chosen):
        raise UsageError(f"{MIRROR_VARIABLE} is not an http, https or file URI: {chosen}", hint)
    return chosen.rstrip("/")


def fetch(
    loaded: LoadedRecipe,
    packages: Sequence[LockedPackage],
    folder: Path,
    scratch: Path,
    *,
    deadline: Deadline,
    emit: Emit,
) -> dict[str, Path]:
    """Return where each package lies in `folder`, by name, fetching what is not there yet.

    What is not whole yet lies in `scratch`, of the same file system. Raises `LabctlError` naming
    the package when it is gone, differs from its pinned sum, or the mirror does not answer.
    """
    owned.claim(folder)
    places = {package.name: folder / f"{package.sha256}.deb" for package in packages}
    missing = [package for package in packages if not places[package.name].is_file()]
    if not missing:
        return places
    base = mirror(deadline)
    total = sum(package.size for package in missing)
    done, guard, stop = 0, Mutex(), Flag()

    def count(size: int) -> None:
        nonlocal done
        with guard:
            done += size
            detail = f"packages, {done / 1e6:.1f} of {total / 1e6:.1f} MB"
            emit(Event("image", loaded.name, "progress", detail, 0.9 * min(1.0, done / total)))

    def one(package: LockedPackage) -> None:
        if stop.is_set():
            return
        part = scratch / f"{package.sha256}.part"
        uri = f"{base}/{package.path}"
        pinned_by = loaded.pinned_by(package)
        _download(pinned_by, uri, package, part, places[package.name], deadline, stop)
        count(package.size)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as pool:
        futures = [pool.submit(one, package) for package in missing]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            raise
    return places


def _download(
    pinned_by: str,
    uri: str,
    package: LockedPackage,
    part: Path,
    place: Path,
    deadline: Deadline,
    stop: Flag,
) -> None:
    """Fetch one package to `place`; nothing is there unless its sum is right.

    Raises `LabctlError` for what the archive does wrong, `HostError` where there is no room.
    """
    what = f"{package.name} {package.version}"
    hint = f"run: labctl image lock {pinned_by}; or set {MIRROR_VARIABLE} to another Debian archive"
    digest = hashlib.sha256()
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with (
            os.fdopen(handle, "wb") as target,
            closing(_blocks(uri, what, hint, deadline)) as blocks,
        ):
            for block in blocks:
                deadline.check(f"fetching {what}")
                if stop.is_set():
                    return
                digest.update(block)
                target.write(block)
                if target.tell() > package.size:  # it may go on until the disk is full
                    break
        if digest.hexdigest() != package.sha256:
            raise LabctlError(
                f"{what} is not what the lock pins: its SHA-256 is {digest.hexdigest()[:12]}…, "
                f"locked is {package.sha256[:12]}…",
                hint,
            )
        part.chmod(0o644)
        part.rename(place)
    except OSError as error:
        raise host_error(error, place.parent) or error from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _blocks(uri: str, what: str, hint: str, deadline: Deadline) -> Generator[bytes]:
    """Yield what lies at `uri`; its errors, unlike the disk's, are told with `hint`."""
    try:
        with urllib.request.urlopen(uri, timeout=min(_STALL, deadline.left or 0.1)) as source:
            while block := source.read(_BLOCK):
                yield block
    except urllib.error.HTTPError as error:
        gone = "is gone from the archive" if error.code in (404, 410) else "was refused"
        raise LabctlError(f"{what} {gone} (HTTP {error.code})", hint) from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise LabctlError(f"{what} could not be fetched: {reason}", hint) from None


def pin(recipe: Recipe, *, deadline: Deadline) -> Lock:
    """Return a lock of the recipe's packages at the versions its suite's main archive has now.

    Uses apt with a configuration of its own in a temporary folder: the host's sources, keys and
    package lists are neither read nor changed. Only the main archive is asked, not its security or
    update suites: the files of those leave the pool with the next version.
    """
    base = mirror(deadline)
    if not KEYRING.is_file():
        raise HostError(
            "the keys of the Debian archive are missing", "apt-get install debian-archive-keyring"
        )
    with owned.temporary(paths.runtime(), ".apt-") as top:
        env = {"APT_CONFIG": str(_private_apt(top, base, recipe.suite))}
        done = run(["apt-get", "-q", "update"], deadline=deadline, env=env, check=False)
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        if os.strerror(errno.ENOSPC) in done.stderr:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(top))
            raise host_error(full) or full
        if not done.ok or errors:
            raise LabctlError(
                f"apt cannot read {recipe.suite}: {errors[0] if errors else done.stderr.strip()}",
                f"set {MIRROR_VARIABLE} to the base URI of a Debian archive that has it",
            )

        def show(names: Sequence[str]) -> dict[str, Packages]:
            text = run(
                ["apt-cache", "show", "--no-all-versions", *names],
                deadline=deadline,
                env=env,
                check=False,
            ).stdout
            found = {
                str(one["Package"]): one
                for one in Packages.iter_paragraphs(text.encode(), use_apt_pkg=False)
            }
            for name in names:
                if name not in found:
                    raise UsageError(
                        f"{recipe.suite} has no package {name}", "see the recipe's packages"
                    )
            return found

        asked = show([recipe.kernel])[recipe.kernel]
        depends = re.search(r"\blinux-image-[0-9][^ ,|(]*", str(asked.get("Depends", "")))
        kernel = depends.group() if depends else recipe.kernel
        whole = str(show([kernel])[kernel].get("Depends", ""))
        parts = sorted(set(_PARTS.findall(whole)))
        records = show([kernel, *parts, *recipe.wanted])
    packages = [
        LockedPackage(
            name=name,
            version=str(record["Version"]),
            sha256=str(record["SHA256"]),
            size=int(record["Size"]),
            path=str(record["Filename"]),
        )
        for name, record in sorted(records.items())
    ]
    return Lock(
        archive="debian",
        suite=recipe.suite,
        kernel=recipe.kernel,
        kernel_package=kernel,
        kernel_parts=parts,
        packages=packages,
    )


def _private_apt(top: Path, base: str, suite: str) -> Path:
    """Write a configuration of apt that reads and writes inside `top` alone; return its file."""
    for folder in ("etc", "state/lists/partial", "cache/archives/partial"):
        (top / folder).mkdir(parents=True)
    top.chmod(0o755)  # apt fetches as a user of its own where it runs as root
    (top / "state/status").touch()
    (top / "etc/sources.list").write_text(f"deb [signed-by={KEYRING}] {base} {suite} main\n")
    config = top / "apt.conf"
    config.write_text(
        f'Dir "{top}";\n'
        f'Dir::Etc "{top}/etc";\n'
        f'Dir::State "{top}/state";\n'
        f'Dir::State::status "{top}/state/status";\n'
        f'Dir::Cache "{top}/cache";\n'
        'Dir::Bin::methods "/usr/lib/apt/methods";\n'
        'APT::Architecture "amd64";\n'
        'APT::Architectures { "amd64"; };\n'
        'Acquire::Languages "none";\n'
    )
    return config
