"""A program that is not trusted takes this process's place, and its terminal and input with it."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

BECOME = "from labctl.cli.process import {0}; {0}(['sh', '-c', {1!r}])"
TYPE = (
    "import fcntl\n"
    "for request in (0x541C, 0x5412):\n"
    "    try: print(fcntl.ioctl(0, request, b'\\n'))\n"
    "    except OSError as wrong: print(wrong.errno)\n"
)


def started(how: str, line: str) -> list[str]:
    return [sys.executable, "-c", BECOME.format(how, line)]


def test_it_cannot_write_to_the_file_it_reads(tmp_path: Path) -> None:
    file = tmp_path / "input"
    for how, left in (("become", "changed\n"), ("become_untrusted", "as it was\n")):
        file.write_text("as it was\n")
        with file.open() as given:
            line = "cat; echo changed >/proc/self/fd/0"
            done = subprocess.run(
                started(how, line), stdin=given, capture_output=True, text=True, timeout=60
            )
        assert done.stdout == "as it was\n", how
        assert file.read_text() == left, how


def test_it_has_nothing_open_but_its_input_and_outputs(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        words = started("become_untrusted", f"test ! -e /proc/self/fd/{folder}")
        done = subprocess.run(words, pass_fds=[folder], stdin=subprocess.DEVNULL, timeout=60)
    finally:
        os.close(folder)
    assert done.returncode == 0


def test_a_long_input_that_nobody_reads_keeps_nobody(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(bytes(1 << 22))
    with (tmp_path / "long").open() as given:
        done = subprocess.run(
            started("become_untrusted", "exit 7"), stdin=given, capture_output=True, timeout=60
        )
    assert done.returncode == 7


@pytest.mark.parametrize("machine", ["riscv64"])
def test_where_system_calls_are_not_known_it_gets_no_terminal(machine: str) -> None:
    code = (
        "import os, sys; from labctl.cli import process; from labctl.errors import HostError\n"
        f"os.uname = lambda: os.uname_result(('', '', '', '', {machine!r}))\n"
        "os.isatty = lambda number: True\n"
        "try: process.become_untrusted(['true'])\n"
        "except HostError as wrong: sys.exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 9


@pytest.mark.parametrize("how", ["become", "become_untrusted"])
def test_it_types_nothing_into_the_terminal(how: str) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            started(how, f'{sys.executable} -c "$TYPE"'), stdin=theirs, stdout=subprocess.PIPE,
            text=True, timeout=60, env={**os.environ, "TYPE": TYPE}, start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(ours)
        os.close(theirs)
    console, terminal = done.stdout.split()
    if how == "become":
        assert console == str(errno.ENOTTY)  # it is asked, and is no console
    else:
        assert (console, terminal) == (str(errno.EPERM), str(errno.EPERM))
