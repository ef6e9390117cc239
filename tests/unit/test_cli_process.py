"""A program that is not trusted takes this process's place, and its input with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BECOME = "from labctl.cli.process import {0}; {0}(['sh', '-c', {1!r}])"


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
