"""JSON that anybody may have written: read in bounded time and memory, or refused in one line."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_VALUES = 1_000_000
"""In one text: an empty list takes two bytes there and sixty in memory."""


class CodecError(Exception):
    """A value that is not of the type it should be, or a text that is none of ours."""

    def __init__(self, reason: str) -> None:
        """Say what is wrong; `at` adds where."""
        super().__init__(reason)
        self.reason = reason
        self._where: list[str] = []

    def at(self, part: object) -> CodecError:
        """Add what holds the place that is known so far."""
        self._where.insert(0, shown(part))
        return self

    def __str__(self) -> str:
        where = ".".join(self._where[:12])
        return f"{where}: {self.reason}" if where else self.reason


def text(plain: Any) -> bytes:
    """Return JSON, in ASCII: a file's name may hold bytes that are no text (PEP 383)."""
    try:
        return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as wrong:
        raise CodecError(f"cannot be written: {wrong}") from None


_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""Never fails at a quote, or a text with a quote that nothing ends would take time squared."""


def parse(data: bytes) -> Any:
    """Return the JSON of a text that anybody may have written; raises `CodecError`.

    Time and memory are bounded by its length and by `MAX_VALUES`.
    """
    if _many(data) > MAX_VALUES and _many(_STRING.sub(b"", data)) > MAX_VALUES:
        raise CodecError(f"holds more than {MAX_VALUES} values")
    try:
        return json.loads(data.decode(), parse_constant=_no_number)
    except RecursionError:
        raise CodecError("too much in each other") from None
    except ValueError as wrong:  # UnicodeDecodeError and JSONDecodeError are
        raise CodecError(f"no JSON: {shown(str(wrong), 80)}") from None


def _many(data: bytes) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def shown(value: object, most: int = 40) -> str:
    """Return what an error shows of a value that a stranger may have written: one short line."""
    if isinstance(value, str):
        words = value
    else:
        words = repr(value) if _is_small(value) else f"a {type(value).__name__}"
    words = "".join(one if one.isprintable() else "?" for one in words[: most + 1])
    return words if len(words) <= most else f"{words[: most - 1]}…"


def _is_small(value: object) -> bool:
    return value is None or isinstance(value, bool | float) or (
        isinstance(value, int) and abs(value) < 1 << 64
    )  # fmt: skip
