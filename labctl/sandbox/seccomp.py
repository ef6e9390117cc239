"""A filter of system calls for programs of the host that are not trusted.

    python -P -m labctl.sandbox.seccomp COMMAND…

becomes the command, which then, with all that it starts, can do none of this:

- Type into the terminal that it has. TIOCSTI puts bytes into a terminal's input, and TIOCLINUX a
  selection into a console's. Whoever reads there next, such as the shell that labctl was started
  from, takes them for its user's words (CVE-2017-5226 is of that kind). The kernel asks for a
  capability only since 6.2, and only where `dev.tty.legacy_tiocsti` is 0.
- Read or change the user's keys in the kernel (keyrings(7)), which no namespace divides.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Sequence
from typing import NamedTuple

# linux/prctl.h, linux/seccomp.h, asm-generic/ioctls.h
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
# struct seccomp_data; of ioctl's second argument the kernel looks at the low half.
_NUMBER, _ARCH, _REQUEST = 0, 4, 24
# linux/bpf_common.h
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06


class _Machine(NamedTuple):
    """The numbers of system calls: linux/audit.h, asm/unistd.h."""

    arch: int
    ioctl: int
    keys: int
    """That of add_key(2); request_key(2) and keyctl(2) follow it."""


_X32 = 0x40000000
"""__X32_SYSCALL_BIT."""
_MACHINES = {
    "x86_64": (
        _Machine(0xC000003E, 16, 248),
        _Machine(0xC000003E, _X32 + 514, _X32 + 248),
        _Machine(0x40000003, 54, 286),
    ),
    "aarch64": (_Machine(0xC00000B7, 29, 217), _Machine(0x40000028, 54, 309)),
}
"""Of a kernel's machine, and of what else it runs: x32 and i386, 32-bit ARM."""


def _program(machines: tuple[_Machine, ...]) -> bytes:
    words: list[tuple[int, int, int, int]] = []
    length = 10
    for index, machine in enumerate(machines):
        refuse = length * (len(machines) - index)  # from the block's first word
        words += [
            (_LOAD, 0, 0, _ARCH),
            (_JUMP_EQUAL, 0, 8, machine.arch),
            (_LOAD, 0, 0, _NUMBER),
            (_JUMP_EQUAL, refuse - 3, 0, machine.keys),
            (_JUMP_EQUAL, refuse - 4, 0, machine.keys + 1),
            (_JUMP_EQUAL, refuse - 5, 0, machine.keys + 2),
            (_JUMP_EQUAL, 0, 3, machine.ioctl),
            (_LOAD, 0, 0, _REQUEST),
            (_JUMP_EQUAL, refuse - 8, 0, TIOCSTI),
            (_JUMP_EQUAL, refuse - 9, 0, TIOCLINUX),
        ]
    words += [(_RETURN, 0, 0, _RET_ALLOW), (_RETURN, 0, 0, _RET_ERRNO | errno.EPERM)]
    return b"".join(struct.pack("HBBI", *word) for word in words)


def restrict() -> None:
    """Let this thread, and all that it starts or becomes, type into no terminal and use no keys.

    Nothing of it gains rights by a program's file either (no_new_privs), which the kernel asks of
    whoever is not root. Raises `OSError`, also on a machine whose system calls are not known here.
    """
    machines = _MACHINES.get(os.uname().machine)
    if machines is None or sys.byteorder != "little":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    program = _program(machines)
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


def main(words: Sequence[str]) -> int:
    """Become a command; returns only where the kernel cannot restrict it, or it cannot be started.

    Where system calls are not known it is started all the same, but never on a terminal.
    """
    try:
        restrict()
    except OSError as wrong:
        if any(os.isatty(number) for number in range(3)):
            sys.stderr.write(
                f"error: this terminal cannot be kept from what runs there: {wrong.strerror}\n"
                "run it without one: labctl exec NODE -- COMMAND </dev/null 2>&1 | cat\n"
            )
            return 3
    try:
        os.execvp(words[0], list(words))
    except OSError as wrong:
        sys.stderr.write(f"{words[0]}: {wrong.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
