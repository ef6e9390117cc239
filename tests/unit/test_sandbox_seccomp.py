"""What a program that is not trusted cannot ask of the kernel."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys

import pytest

TYPE = (
    "import fcntl\n"
    "for request in (0x541C, 0x5412):\n"
    "    try: print(fcntl.ioctl(0, request, b'\\n'))\n"
    "    except OSError as wrong: print(wrong.errno)\n"
)
RESTRICTED = ("-m", "labctl.sandbox.seccomp", sys.executable)
KEYS = (
    "import ctypes\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "for number in {numbers}:\n"
    "    print(libc.syscall(number, 6, -3, 0, 0, 0), ctypes.get_errno())\n"
)
NUMBERS = {"x86_64": (248, 249, 250), "aarch64": (217, 218, 219)}
"""add_key(2), request_key(2), keyctl(2)."""


@pytest.mark.parametrize("words", [(), RESTRICTED], ids=["free", "restricted"])
def test_it_types_nothing_into_the_terminal(words: tuple[str, ...]) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, *words, "-c", TYPE], stdin=theirs, stdout=subprocess.PIPE,
            text=True, timeout=60, start_new_session=True, check=True,
        )  # fmt: skip
    finally:
        os.close(ours)
        os.close(theirs)
    console, terminal = done.stdout.split()
    if words:
        assert (console, terminal) == (str(errno.EPERM), str(errno.EPERM))
    else:
        assert console == str(errno.ENOTTY)  # it is asked, and is no console


@pytest.mark.skipif(os.uname().machine not in NUMBERS, reason="no such machine")
def test_it_reaches_no_keys_of_its_user() -> None:
    code = KEYS.format(numbers=NUMBERS[os.uname().machine])
    done = subprocess.run(
        [sys.executable, *RESTRICTED, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"-1 {errno.EPERM}"] * 3


def test_what_starts_there_and_its_end_are_as_they_would_be() -> None:
    words = [sys.executable, *RESTRICTED[:-1]]
    assert subprocess.run([*words, "sh", "-c", "exit 7"], timeout=60, check=False).returncode == 7
    missing = subprocess.run(
        [*words, "no-such-program"], capture_output=True, text=True, timeout=60, check=False
    )
    assert missing.returncode == 127
    assert missing.stderr == "no-such-program: No such file or directory\n"


@pytest.mark.parametrize(("terminal", "status"), [(True, 3), (False, 7)])
def test_where_system_calls_are_not_known_it_gets_no_terminal(terminal: bool, status: int) -> None:
    code = (
        "import os, sys; from labctl.sandbox import seccomp\n"
        "os.uname = lambda: os.uname_result(('', '', '', '', 'riscv64'))\n"
        f"os.isatty = lambda number: {terminal}\n"
        "sys.exit(seccomp.main(['sh', '-c', 'exit 7']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status
    assert ("run it without one" in done.stderr) is terminal
