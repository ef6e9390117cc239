"""Opening a capture: a file or standard input, packed with gzip or not; what kind it is."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from labctl.errors import UsageError

LONGEST = 1 << 20
"""Bytes; more is no frame but damage (Linux makes super-frames of at most half of it)."""

HINT = "labctl inspect reads pcap and pcapng files, packed with gzip or not"

_GZIP = b"\x1f\x8b"


class FormatError(UsageError):
    """The file is no capture that can be read here."""


@dataclass
class Ending:
    """Why reading ended."""

    name: str
    """What the file is called."""
    note: str = ""
    """Empty where the file is whole."""

    def say(self, note: str) -> None:
        """Give a reason; the first given is the cause of the others."""
        self.note = self.note or note


@contextmanager
def opened(path: Path | None, ending: Ending) -> Iterator[Callable[[memoryview], int]]:
    """Open a file, or standard input for None, and give a function that reads into a buffer.

    The function returns how many bytes it read, 0 at the end. Raises `UsageError` where the file
    cannot be opened or read.
    """
    try:
        with path.open("rb") if path else open(sys.stdin.fileno(), "rb", closefd=False) as file:
            packed = file.peek(2)[:2] == _GZIP
            yield _unpacking(file, ending) if packed else file.readinto
    except OSError as error:
        raise UsageError(f"{ending.name} cannot be read: {error.strerror or error}") from error


def _unpacking(file: BinaryIO, ending: Ending) -> Callable[[memoryview], int]:
    stream = gzip.GzipFile(fileobj=file)

    def read_into(view: memoryview) -> int:
        try:
            return stream.readinto(view)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            ending.say(f"the gzip stream is damaged or cut: {error}")
            return 0

    return read_into
