"""What a disk image is, by its first bytes and by qemu-img(1), before any guest boots it.

An image may be anybody's. One that names other files (a backing file, an external data file, the
extents of a VMDK descriptor) would have QEMU read those, whatever they are, as the guest's disk. So
headers are read here first; qemu-img, which opens some of what they name, sees only what is sound,
and as nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labctl.errors import LabctlError, UsageError
from labctl.images import disk_cache
from labctl.images.overlay import PROGRAM
from labctl.sandbox import confine
from labctl.sandbox.bounded import collect
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import last_lines, start_as
from labctl.topology.disk_image import Format

MOST_VIRTUAL = 1 << 46
"""Bytes of a guest's disk: 64 TiB."""
INFO_SECONDS = 60.0
NOBODY = 65534
"""The user without rights (Linux Standard Base, and the kernel's overflowuid)."""
SECTOR = 512
_LIMITS = ("prlimit", "--as=1073741824", "--cpu=30", "--fsize=0", "--")
"""Of qemu-img: what it may take for a header made to cost it much."""
_MAGIC: dict[bytes, Format] = {
    b"QFI\xfb": "qcow2",  # QEMU, docs/interop/qcow2.txt
    b"KDMV": "vmdk",  # VMware, Virtual Disk Format 5.0
    b"vhdxfile": "vhdx",  # MS-VHDX, 2.2.1
}
_DESCRIPTOR_FILE = b"# Disk DescriptorFile"
_HEAD = 1 << 9
_DATA_FILE = 1 << 2
"""qcow2: the incompatible feature of an external data file."""
_DESCRIPTOR = 20 << 9
"""Bytes of a VMDK's embedded descriptor that QEMU reads at most (DESC_SIZE, block/vmdk.c)."""
_ALONE = (b"monolithicsparse", b"streamoptimized")
"""The types of VMDK that are one file."""


def check(path: Path, wanted: Format, source: str) -> int:
    """Return the size of a guest's disk in bytes, of an image that is what it shall be.

    It lies in the cache already, or may be made readable for all. Raises `UsageError` for one of
    another format, `LabctlError` for one that names other files or cannot be read, both naming
    `source`; `DeadlineError`, `OSError`.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
        found = next((one for magic, one in _MAGIC.items() if head.startswith(magic)), "raw")
        if wanted == "vmdk" and head.startswith(_DESCRIPTOR_FILE):
            raise _others(source, "extents")
        if found != wanted:
            what = f"is {found}" if found != "raw" else f"does not begin as {wanted} does"
            hint = f"write format: {found}" if found != "raw" else "look at it: file FILE"
            raise UsageError(f"{source} {what}, and its format is said to be {wanted}", hint)
        if wanted == "raw":
            size = -(-path.stat().st_size // SECTOR) * SECTOR  # as QEMU rounds it up
        else:
            if wanted == "qcow2":
                _check_qcow2(head, source)
            elif wanted == "vmdk":
                # Whatever the header says, QEMU looks for a parent behind it (vmdk_open).
                for place in (SECTOR, _vmdk_descriptor(head, source)):
                    if place < path.stat().st_size:
                        file.seek(place)
                        _check_descriptor(file.read(_DESCRIPTOR), source)
            size = _asked(path, wanted, source)
    if not 0 < size <= MOST_VIRTUAL:
        raise LabctlError(f"{source} is a disk of {size} bytes", "look at it: qemu-img info FILE")
    return size


def _check_qcow2(head: bytes, source: str) -> None:
    if len(head) < 72:
        raise _cut(source)
    version, backing = struct.unpack_from(">IQ", head, 4)
    (encrypted,) = struct.unpack_from(">I", head, 32)
    features = struct.unpack_from(">Q", head, 72)[0] if version >= 3 and len(head) >= 80 else 0
    if backing:
        raise _others(
            source, "a backing file", "qemu-img rebase -b '' FILE, if it is whole without"
        )
    if features & _DATA_FILE:
        raise _others(source, "an external data file", "qemu-img convert -O qcow2 FILE OTHER")
    if encrypted:
        raise LabctlError(f"{source} is encrypted, and labctl has no key for it")


def _vmdk_descriptor(head: bytes, source: str) -> int:
    """Return where a sparse VMDK has its descriptor; 0 where it has none."""
    if len(head) < 44:
        raise _cut(source)
    capacity, _grain, sector = struct.unpack_from("<QQQ", head, 12)
    if not capacity:  # then QEMU goes by the descriptor, which names other files
        raise _others(source, "extents")
    return int(sector) << 9


def _check_descriptor(text: bytes, source: str) -> None:
    kind = re.search(rb'createType\s*=\s*"([^"]{0,40})"', text, re.IGNORECASE)
    if kind and kind[1].lower() not in _ALONE:
        raise _others(source, "extents")
    if b"parentFileNameHint" in text:
        raise _others(source, "a parent")


def _asked(path: Path, wanted: Format, source: str) -> int:
    """Return the size that qemu-img tells; raises `LabctlError` where it names other files."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.geteuid() == 0:  # who looks is somebody else, and passes no folder on the way
            os.fchmod(handle, disk_cache.MODE)
        opened = f"/proc/self/fd/{handle}"
        words = [PROGRAM, "info", "--output=json", "-f", wanted, opened]
        status, out, err = _confined([*_LIMITS, *words], handle, f"looking into {source}")
    finally:
        os.close(handle)
    try:
        told: Any = json.loads(out) if status == 0 else None
        size, named = told["virtual-size"], told.get("backing-filename")
        specific = told.get("format-specific", {}).get("data", {})
        extents = [one.get("filename", "") for one in specific.get("extents", ())]
        others = [named, specific.get("data-file"), *(one for one in extents if one != opened)]
        if told["format"] != wanted or not isinstance(size, int):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        why = last_lines(err.decode(errors="replace"), 1) or "it says nothing of use"
        raise LabctlError(
            f"qemu-img cannot read {source}: {why}", "look at it: qemu-img check FILE"
        ) from None
    if any(others):
        raise _others(source, "other files")
    return size


def _confined(argv: Sequence[str], file: int, stage: str) -> tuple[int, bytes, bytes]:
    """Run a program with an open file; return its status and what it said, at most 1 MiB each.

    Where this is root it runs as nobody, without any capability. Raises `DeadlineError`.
    """

    def start() -> subprocess.Popen[bytes]:
        if os.geteuid() == 0:
            confine.no_more_rights()
            with contextlib.suppress(OSError):  # in a container there may be no such user
                return start_as(argv, NOBODY, files=[file])
        return start_as(argv, None, files=[file])

    deadline = Deadline(INFO_SECONDS, stage)
    with confine.in_thread(start) as child:
        try:
            out, err, over = collect(child, b"", 1 << 20, deadline)
        except subprocess.TimeoutExpired:
            child.kill()
            raise deadline.error() from None
        except BaseException:
            child.kill()
            raise
    return (-1 if over else child.returncode), out, err


def _others(source: str, what: str, hint: str = "") -> LabctlError:
    return LabctlError(
        f"{source} names {what}, which its guest would read",
        hint or "use an image that is one file",
    )


def _cut(source: str) -> LabctlError:
    return LabctlError(f"{source} ends within its header")
