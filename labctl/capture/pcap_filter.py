"""Capture filters, the expressions of tcpdump (pcap-filter(7)), compiled and run by libpcap.

libpcap is called by ctypes: four functions of an interface that has not changed in twenty years.
The filter runs here, on what observers have written: in guests there is no libpcap, and what
a filter leaves out is still counted.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import weakref
from collections.abc import Iterator
from functools import cache

from labctl.errors import HostError, UsageError, clean
from labctl.packet import link_types

LIBRARIES = ("libpcap.so.0.8", "libpcap.so.1")
"""The library's name in Debian, and elsewhere."""
LONGEST = 8192
"""Characters of an expression."""
_SNAP = 262144
_ANY_NETMASK = 0xFFFFFFFF  # PCAP_NETMASK_UNKNOWN
_ERRORS = 256  # PCAP_ERRBUF_SIZE
_HINT = "expressions are those of tcpdump, see pcap-filter(7): 'tcp port 22 and host 10.0.1.1'"
_DIRECTIONS = re.compile(r"\b(inbound|outbound)\b")
"""libpcap takes them, for what the kernel tells beside a frame; here no frame would pass."""
_PREFIX = "can't parse filter expression: "
_SYNTAX = ("syntax error", "illegal")
_MOST_WORDS = 64
"""Of longer expressions the place of a fault is not looked for."""
_ENDINGS = (
    "",
    "] = 1",
    " 1",
    " tcp",
    " 10.0.0.1",
    " port 1",
    " = 1",
    " 10.0.0.0/8",
    " 00:00:00:00:00:00",
)
"""With one of these the beginning of a right expression is one itself."""


class _Program(ctypes.Structure):
    """struct bpf_program."""

    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


class _Header(ctypes.Structure):
    """struct pcap_pkthdr."""

    _fields_ = (
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("captured", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
    )


class PcapFilter:
    """A compiled filter for Ethernet frames."""

    def __init__(self, expression: str) -> None:
        """Compile an expression; an empty one lets every frame pass.

        Raises `UsageError` for what is no expression, `HostError` where there is no libpcap.
        """
        self.expression = expression
        self._program = _Program()
        if len(expression) > LONGEST or "\0" in expression:
            raise UsageError(f"the filter is longer than {LONGEST} characters, or holds NUL", _HINT)
        if found := _DIRECTIONS.search(expression):
            place = f"column {found.start() + 1}, {found[0]!r}"
            what = f"the filter is wrong at {place}: no frame tells that"
            raise UsageError(what, "each line and each packet of a capture tells its direction")
        if why_not := _compile(expression, self._program):
            raise UsageError(_told(expression, why_not), _HINT)
        weakref.finalize(self, _library().pcap_freecode, ctypes.byref(self._program))

    def __call__(self, frame: bytes, original_length: int) -> bool:
        """Tell whether a frame passes, of which so many bytes were on the wire."""
        header = _Header(0, 0, len(frame), original_length)
        program = ctypes.byref(self._program)
        return bool(_library().pcap_offline_filter(program, ctypes.byref(header), frame))


@cache
def _library() -> ctypes.CDLL:
    """Return libpcap with the types of what is called; raises `HostError` without one."""
    for name in LIBRARIES:
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(name)
            break
    else:
        raise HostError("libpcap is not installed, which filters need", "run: labctl doctor")
    program, header = ctypes.POINTER(_Program), ctypes.POINTER(_Header)
    library.pcap_open_dead.restype = ctypes.c_void_p
    library.pcap_open_dead.argtypes = (ctypes.c_int, ctypes.c_int)
    library.pcap_close.argtypes = (ctypes.c_void_p,)
    library.pcap_geterr.restype = ctypes.c_char_p
    library.pcap_geterr.argtypes = (ctypes.c_void_p,)
    library.pcap_compile.argtypes = (
        ctypes.c_void_p, program, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32,
    )  # fmt: skip
    library.pcap_freecode.argtypes = (program,)
    library.pcap_offline_filter.argtypes = (program, header, ctypes.c_char_p)
    return library


def _compile(expression: str, program: _Program) -> str:
    """Compile an expression into `program`; return what libpcap says against it, else nothing."""
    library = _library()
    handle = library.pcap_open_dead(link_types.ETHERNET, _SNAP)
    try:
        words = expression.encode("utf-8", "surrogateescape")
        if library.pcap_compile(handle, ctypes.byref(program), words, 1, _ANY_NETMASK) == 0:
            return ""
        said: bytes = library.pcap_geterr(handle)
        return said[:_ERRORS].decode("utf-8", "replace") or "libpcap does not say why"
    finally:
        library.pcap_close(handle)


def _told(expression: str, why_not: str) -> str:
    """Say what is wrong with an expression, and where."""
    why_not = clean(why_not.removeprefix(_PREFIX))
    if (found := _place(expression, why_not)) is None:
        return f"the filter {clean(expression)!r} is wrong: {why_not}"
    at, word = found
    return f"the filter is wrong at column {at + 1}, {clean(word)!r}: {why_not}"


def _place(expression: str, why_not: str) -> tuple[int, str] | None:
    """Return where an expression goes wrong, and the word there; None where that is its end.

    libpcap does not tell. It is the first word with which no right expression can begin.
    """
    words = list(_words(expression))
    for at, word in words:
        if f"'{word}'" in why_not or f'"{word}"' in why_not:
            return at, word
    if len(words) > _MOST_WORDS or not why_not.startswith(_SYNTAX):
        return None
    for at, word in words:
        begun = expression[: at + len(word)]
        closed = ")" * (begun.count("(") - begun.count(")"))
        if not any(_right(begun + ending + closed) for ending in _ENDINGS):
            return at, word
    return None


def _words(expression: str) -> Iterator[tuple[int, str]]:
    for found in re.finditer(r"[()]|[^\s()]+", expression):
        yield found.start(), found[0]


def _right(expression: str) -> bool:
    """Tell whether an expression has the right form, whatever it means."""
    program = _Program()
    try:
        why_not = _compile(expression, program)
    finally:
        _library().pcap_freecode(ctypes.byref(program))
    return not why_not.removeprefix(_PREFIX).startswith(_SYNTAX)
