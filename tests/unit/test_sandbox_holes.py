"""Holes in files: what was read may go, what was written without end may not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from labctl.sandbox.bounded import Output
from labctl.sandbox.holes import held, punch_hole

MEG = 1 << 20


def writer(code: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-I", "-S", "-c", f"import sys; o = sys.stdout.buffer; {code}"]
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_hole_at_the_beginning_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 3 * MEG)
    if not punch_hole(path, 0, 2 * MEG):
        pytest.skip("this file system has no holes")
    with path.open("rb") as file:
        assert held(file.fileno()) == MEG
        file.seek(0)
        assert file.read() == bytes(2 * MEG) + b"x" * MEG


def test_no_hole_is_made_where_there_is_no_file(tmp_path: Path) -> None:
    assert not punch_hole(tmp_path / "x", 0, MEG)
    (tmp_path / "link").symlink_to("/dev/zero")
    assert not punch_hole(tmp_path / "link", 0, MEG)


def test_who_writes_zeros_without_end_is_ended(tmp_path: Path) -> None:
    child = writer("o.write(b'begin')\nwhile True: o.write(bytes(65536))")
    Output(child, tmp_path / "out", tmp_path / "err", MEG)
    assert child.wait(60) != 0
    assert (tmp_path / "out").stat().st_size == MEG


def test_who_is_read_along_may_write_more_than_the_bound(tmp_path: Path) -> None:
    out = tmp_path / "out"
    step = "sys.stdin.buffer.read(1); o.write(b'x' * 700000); o.flush()"
    child = writer(f"[({step.replace('; ', ', ')}) for _ in range(4)]")
    output = Output(child, out, tmp_path / "err", MEG)
    assert child.stdin
    for number in range(1, 5):
        child.stdin.write(b".")
        child.stdin.flush()
        while not out.exists() or out.stat().st_size < number * 700_000:
            assert child.poll() is None or number == 4
        if not punch_hole(out, 0, number * 700_000 // 65536 * 65536):
            child.kill()
            pytest.skip("this file system has no holes")
    assert child.wait(60) == 0
    output.settle(60)
    assert out.stat().st_size == 4 * 700_000
