"""What is told of a sandbox by the kernel alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labctl.sandbox import init_scan


def process(proc: Path, pid: int, namespace: str, *words: str) -> None:
    folder = proc / str(pid)
    (folder / "ns").mkdir(parents=True)
    (folder / "ns" / "pid").symlink_to(namespace)
    (folder / "cmdline").write_bytes(b"".join(os.fsencode(word) + b"\0" for word in words))


def test_guests_are_told_whichever_user_their_qemu_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root each is a user of its own: a lab that lost its folder seemed to have no guests."""
    monkeypatch.setattr(init_scan, "PROC", tmp_path)
    process(tmp_path, 10, "pid:[1]", "python", "init.py")
    process(tmp_path, 11, "pid:[1]", "qemu", "-name", "guest=vm1,debug-threads=on", "-S")
    process(tmp_path, 12, "pid:[2]", "qemu", "-name", "guest=another")
    process(tmp_path, 13, "pid:[1]")  # a zombie
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert init_scan.guests(10) == ["vm1"]
