"""A filter of system calls by which a program cannot type into the terminal that it has.

TIOCSTI puts bytes into a terminal's input, and TIOCLINUX a selection into a console's. Whoever
reads there next, such as the shell that labctl was started from, takes them for its user's words
(CVE-2017-5226 is of that kind). The kernel asks for a capability only since 6.2, and only where
`dev.tty.legacy_tiocsti` is 0.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import NamedTuple

# linux/prctl.h, linux/seccomp.h, asm-generic/ioctls.h
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
# struct seccomp_data; of ioctl's second argument the kernel looks at the low half.
_NUMBER, _ARCH, _REQUEST = 0, 4, 24
# linux/bpf_common.h
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06


class _Call(NamedTuple):
    """ioctl(2) as one machine calls it: linux/audit.h, asm/unistd.h."""

    arch: int
    number: int


_IOCTLS = {
    "x86_64": (_Call(0xC000003E, 16), _Call(0xC000003E, 0x40000202), _Call(0x40000003, 54)),
    "aarch64": (_Call(0xC00000B7, 29), _Call(0x40000028, 54)),
}
"""Of a kernel's machine, and of what else it runs: x32 and i386, 32-bit ARM."""


def _program(calls: tuple[_Call, ...]) -> bytes:
    words: list[tuple[int, int, int, int]] = []
    length = 7
    for index, call in enumerate(calls):
        refuse = length * (len(calls) - index)
        words += [
            (_LOAD, 0, 0, _ARCH),
            (_JUMP_EQUAL, 0, 5, call.arch),
            (_LOAD, 0, 0, _NUMBER),
            (_JUMP_EQUAL, 0, 3, call.number),
            (_LOAD, 0, 0, _REQUEST),
            (_JUMP_EQUAL, refuse - 5, 0, TIOCSTI),
            (_JUMP_EQUAL, refuse - 6, 0, TIOCLINUX),
        ]
    words += [(_RETURN, 0, 0, _RET_ALLOW), (_RETURN, 0, 0, _RET_ERRNO | errno.EPERM)]
    return b"".join(struct.pack("HBBI", *word) for word in words)


def forbid_typing() -> None:
    """Let this thread, and all that it starts or becomes, type into no terminal.

    Nothing of it gains rights by a program's file either (no_new_privs), which the kernel asks of
    whoever is not root. Raises `OSError`, also on a machine whose system calls are not known here.
    """
    calls = _IOCTLS.get(os.uname().machine)
    if calls is None or sys.byteorder != "little":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    program = _program(calls)
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for words in (
        (_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), *(ctypes.c_ulong(0),) * 3),
        (_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), fprog, *(ctypes.c_ulong(0),) * 2),
    ):
        if libc.prctl(*words):
            number = ctypes.get_errno()
            raise OSError(number, f"prctl: {os.strerror(number)}")
