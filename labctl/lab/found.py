"""What `labctl version` tells: labctl's own version, and what it found on this host.

Nothing is started or tried here: `labctl doctor` does that.
"""

from __future__ import annotations

import platform
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labctl.errors import LabctlError
from labctl.guests import accel
from labctl.guests.domain import EMULATOR
from labctl.images import cache, recipe_paths
from labctl.sandbox import process
from labctl.sandbox.deadline import Deadline
from labctl.version import __version__

QEMU_SECONDS = 10.0
"""For `--version` of QEMU, which takes some hundredths of a second."""


@dataclass(frozen=True)
class Found:
    """labctl and what it runs on; a text is empty where there is no such thing."""

    labctl: str
    place: str
    """The folder that labctl's code lies in."""
    python: str
    distribution: str
    kernel: str
    """This host's, as `uname -r` says it."""
    qemu: str
    libvirt: str
    """The library's version."""
    accelerator: str
    """`kvm`, `tcg`, or `kvm, not tried yet`: the first `up` tries it."""
    images: dict[str, bool]
    """Every known image by name, and whether the cache has one of that name."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def find() -> Found:
    """Look at this host; what is missing is empty and no error."""
    try:
        distribution = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        distribution = ""
    return Found(
        labctl=__version__,
        place=str(Path(__file__).resolve().parent.parent),
        python=platform.python_version(),
        distribution=distribution,
        kernel=platform.release(),
        qemu=_qemu(),
        libvirt=_libvirt(),
        accelerator=_accelerator(),
        images=_images(),
    )


def _qemu() -> str:
    """Return QEMU's version, such as `7.2.17`, by its own first line."""
    with suppress(LabctlError, OSError):
        deadline = Deadline(QEMU_SECONDS, "asking QEMU for its version")
        told = process.run([EMULATOR, "--version"], deadline=deadline).stdout
        found = re.match(r"QEMU emulator version ([0-9.]{1,20})", told)
        return found[1] if found else ""
    return ""


def _libvirt() -> str:
    try:
        import libvirt
    except ImportError:
        return ""
    number = libvirt.getVersion()
    return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"


def _accelerator() -> str:
    if accel.obstacle():
        return "tcg"
    answer = accel.remembered()
    if answer is None:
        return "kvm, not tried yet"
    return "kvm" if answer.works else "tcg"


def _images() -> dict[str, bool]:
    """Return which images there are. Recipes are not read, so one may be of an older recipe."""
    try:
        names = recipe_paths.names()
        built = {folder.name.rpartition("-")[0] for folder in cache.folders_of(None)}
    except (LabctlError, OSError):
        return {}
    return {name: name in built for name in sorted({*names, *built})}
