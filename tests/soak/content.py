"""What is known beforehand, so that a difference is a corruption: content, files, log lines."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20
GOLDEN = 2654435761
"""Knuth's multiplicative constant: makes words that differ in many bits of numbers in a row."""


class CorruptionError(Exception):
    """Something is not what it must be; the message names it."""


@dataclass(frozen=True)
class Content:
    """Pseudo-random content that a guest can make of one MiB, and that differs in every part.

    MiB `i` is the block of `name`, each of its 32-bit words (most significant octet first)
    exclusive-ored with `word(i)`. So a page of another guest, or one of another MiB, shows too.
    """

    name: str
    mebibytes: int

    @property
    def size(self) -> int:
        return self.mebibytes * MIB

    @property
    def block(self) -> bytes:
        return random.Random(self.name).randbytes(MIB)

    def parts(self) -> Iterator[bytes]:
        """Give MiB after MiB."""
        block = int.from_bytes(self.block, "big")
        for number in range(self.mebibytes):
            mask = int.from_bytes(word(number).to_bytes(4, "big") * (MIB // 4), "big")
            yield (block ^ mask).to_bytes(MIB, "big")

    def slice(self, skip: int, length: int) -> bytes:
        return b"".join(self.parts())[skip : skip + length]


def word(number: int) -> int:
    """Return what distinguishes a MiB of a content from the others."""
    return number * GOLDEN & 0xFFFFFFFF


def digest(parts: Iterable[bytes]) -> str:
    """Return the SHA-256 of what the parts are together."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()


def archived_files(initramfs: Path, below: tuple[str, ...] = ("usr/", "init")) -> dict[str, str]:
    """Return the SHA-256 of each file in an initramfs, by its path in the guest."""
    import libarchive

    found: dict[str, str] = {}
    with libarchive.file_reader(str(initramfs)) as archive:
        entry: Any
        for entry in archive:
            name = entry.pathname.removeprefix("./")
            if entry.isfile and name.startswith(below):
                found[f"/{name}"] = digest(entry.get_blocks())
    return found


def listed_files(text: str) -> dict[str, str]:
    """Read what sha256sum printed."""
    found = {}
    for line in text.splitlines():
        value, _, name = line.partition("  ")
        found[name] = value
    return found


def check_files(place: str, expected: dict[str, str], found: dict[str, str]) -> None:
    """Raise `CorruptionError` naming the files that are missing, more or different."""
    wrong = [f"{name} is missing" for name in sorted(expected.keys() - found)]
    wrong += [f"{name} is not of the image" for name in sorted(found.keys() - expected)]
    wrong += [
        f"{name} is {found[name]}, must be {value}"
        for name, value in sorted(expected.items())
        if found.get(name, value) != value
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise CorruptionError(f"files of {place}: {'; '.join(wrong[:3])}{more}")


def difference(expected: bytes, found: bytes, offset: int = 0) -> str:
    """Say how many octets differ and where the first is; empty where none does."""
    if len(expected) != len(found):
        return f"{len(found)} octets instead of {len(expected)} at {offset:#x}"
    wrong = [
        at for at, (one, other) in enumerate(zip(expected, found, strict=True)) if one != other
    ]
    if not wrong:
        return ""
    first = wrong[0]
    return (
        f"{len(wrong)} octets differ, from {offset + first:#x} to {offset + wrong[-1]:#x}: "
        f"{found[first : first + 8].hex()} instead of {expected[first : first + 8].hex()}"
    )


TROUBLE = re.compile(
    r"(?-i:\bOops\b|\bBUG\b|\bWARNING: CPU|\bXen WARN)|Call Trace|Kernel panic|bad page"
    r"|corrupt|general protection|double fault|invalid opcode|stack segment|segfault|trap .* ip:"
    r"|page allocation failure|Out of memory|oom-kill|Machine check exception|\[Hardware Error\]"
    r"|vif.*(fatal|invalid|not valid)|Fatal error|mm\.c:\d+.*(Bad|Error)|Assertion|domain_crash"
    r"|unable to handle|unexpected (page|exception|trap)",
    re.IGNORECASE,
)
"""What a kernel or Xen says when its memory or its CPU is not what it takes them for."""
LATE = re.compile(
    r"soft lockup|self-detected stall|rcu.*(stall|kthread starved)|hrtimer: interrupt took"
    r"|clocksource.*unstable|Marking TSC unstable",
    re.IGNORECASE,
)
"""What a busy machine makes a guest say; counted only."""
STAMP = re.compile(r"^\[ *\d+\.\d+\] |^\(XEN\) (\[.*?\] )?")


def scan(place: str, text: str) -> list[str]:
    """Return the lines of a log that a busy machine explains.

    Raises `CorruptionError` with the first line of a log that tells of trouble.
    """
    late = []
    for line in text.splitlines():
        said = STAMP.sub("", line)
        if LATE.search(said):
            late.append(line.strip())
        elif TROUBLE.search(said):
            raise CorruptionError(f"{place} says: {line.strip()}")
    return late
