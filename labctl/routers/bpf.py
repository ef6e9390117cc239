"""bpf(2) without a compiler: instructions, programs and links by system calls.

Sources: include/uapi/linux/bpf.h and Documentation/bpf/standardization/instruction-set.rst. A
program hangs on a link (BPF_LINK_CREATE), so that it is detached when this process ends.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from dataclasses import dataclass, field

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_MAP_CREATE, _MAP_UPDATE_ELEM, _PROG_LOAD, _LINK_CREATE = 0, 2, 5, 28
"""enum bpf_cmd."""
SCHED_CLS, XDP = 3, 6
"""enum bpf_prog_type."""
XSKMAP = 17
"""enum bpf_map_type."""
ATTACH_XDP, ATTACH_TCX_INGRESS, ATTACH_TCX_EGRESS = 37, 46, 47
"""enum bpf_attach_type; TCX is of Linux 6.6."""
XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE = 2, 4
"""linux/if_link.h."""
_LICENSE = b"Dual BSD/GPL\0"
_LOG_BYTES = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)

B, H, W, DW = 0x10, 0x08, 0x00, 0x18
"""Sizes of what is loaded and stored: 1, 2, 4 and 8 octets."""
_LDX, _ST, _STX, _ALU64, _JMP = 0x61, 0x62, 0x63, 0x07, 0x05
JEQ, JGT, JNE = 0x10, 0x20, 0x50


@dataclass
class Assembler:
    """Instructions in a row; jumps go to labels."""

    code: list[tuple[int, int, int, int | str, int]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def label(self, name: str) -> None:
        """Name the place of the next instruction."""
        self.labels[name] = len(self.code)

    def load(self, size: int, to: int, base: int, offset: int) -> None:
        """Load from memory: `to = *(base + offset)`."""
        self._add(_LDX | size, to, base, offset, 0)

    def store(self, size: int, base: int, offset: int, source: int) -> None:
        """Store a register: `*(base + offset) = source`."""
        self._add(_STX | size, base, source, offset, 0)

    def put(self, size: int, base: int, offset: int, value: int) -> None:
        """Store a number: `*(base + offset) = value`."""
        self._add(_ST | size, base, 0, offset, value)

    def move(self, to: int, source: int) -> None:
        """Copy a register."""
        self._add(0xBF, to, source, 0, 0)

    def set(self, to: int, value: int) -> None:
        """Set a register to a number."""
        self._add(0xB7, to, 0, 0, value)

    def set_word(self, to: int, value: int) -> None:
        """Set the lower half of a register to 32 bits, and its upper half to 0."""
        self._add(0xB4, to, 0, 0, value - (1 << 32) if value >> 31 else value)

    def set_map(self, to: int, descriptor: int) -> None:
        """Set a register to a map, by its file descriptor (BPF_PSEUDO_MAP_FD)."""
        self._add(0x18, to, 1, 0, descriptor)
        self._add(0, 0, 0, 0, 0)

    def add(self, to: int, value: int) -> None:
        """Add a number to a register."""
        self._add(_ALU64, to, 0, 0, value)

    def jump(self, label: str) -> None:
        """Go on at a label."""
        self._add(_JMP, 0, 0, label, 0)

    def jump_if(self, compare: int, one: int, value: int, label: str) -> None:
        """Go on at a label where a register compares so with a number."""
        self._add(_JMP | compare, one, 0, label, value)

    def jump_if_register(self, compare: int, one: int, other: int, label: str) -> None:
        """Go on at a label where a register compares so with another."""
        self._add(_JMP | 0x08 | compare, one, other, label, 0)

    def call(self, helper: int) -> None:
        """Call a helper function by its number; arguments are in registers 1 to 5."""
        self._add(0x85, 0, 0, 0, helper)

    def leave(self) -> None:
        """Return register 0."""
        self._add(0x95, 0, 0, 0, 0)

    def _add(self, code: int, one: int, other: int, offset: int | str, value: int) -> None:
        self.code.append((code, one, other, offset, value))

    def bytes(self) -> bytes:
        """Return the program."""
        out = b""
        for at, (code, one, other, offset, value) in enumerate(self.code):
            jump = self.labels[offset] - at - 1 if isinstance(offset, str) else offset
            out += struct.pack("<BBhi", code, other << 4 | one, jump, value)
        return out


def _bpf(command: int, attributes: bytes) -> int:
    """Call bpf(2); returns a file descriptor, raises `OSError`."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(0, f"bpf(2) has no known number on {platform.machine()}")
    data = ctypes.create_string_buffer(attributes, len(attributes))
    found = int(_libc.syscall(number, command, data, len(attributes)))
    if found < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf(2): {os.strerror(error)}")
    return found


def load(kind: int, program: bytes) -> int:
    """Load a program; returns its descriptor. Raises `OSError` with the verifier's last words."""
    code = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(_LICENSE)
    log = ctypes.create_string_buffer(_LOG_BYTES)
    head = struct.pack("=IIQQ", kind, len(program) // 8, *map(ctypes.addressof, (code, license_)))
    quiet = head + struct.pack("=IIQ", 0, 0, 0) + bytes(88)
    try:
        return _bpf(_PROG_LOAD, quiet)
    except OSError as wrong:
        told = head + struct.pack("=IIQ", 1, _LOG_BYTES, ctypes.addressof(log)) + bytes(88)
        try:
            return _bpf(_PROG_LOAD, told)
        except OSError:
            said = log.value.decode(errors="replace").strip().splitlines()[-2:]
            words = " / ".join(said) or os.strerror(wrong.errno or 0)
            raise OSError(wrong.errno, f"the kernel refuses the program: {words}") from None


def make_map(kind: int, entries: int) -> int:
    """Make a map of 32-bit keys and values; returns its descriptor. Raises `OSError`."""
    return _bpf(_MAP_CREATE, struct.pack("=IIII", kind, 4, 4, entries) + bytes(56))


def put(descriptor: int, key: int, value: int) -> None:
    """Write an entry of such a map; raises `OSError`."""
    pair = [ctypes.create_string_buffer(struct.pack("=I", one), 4) for one in (key, value)]
    places = struct.pack("=IIQQQ", descriptor, 0, *map(ctypes.addressof, pair), 0)
    _bpf(_MAP_UPDATE_ELEM, places)


def attach(program: int, ifindex: int, kind: int, flags: int = 0) -> int:
    """Let a program run at a link of the network namespace; returns what it hangs on."""
    return _bpf(_LINK_CREATE, struct.pack("=IIII", program, ifindex, kind, flags) + bytes(32))
