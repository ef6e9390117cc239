"""Consoles of guests that say too much: trimmed in the middle, read in pieces, each byte once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labctl.guests import console
from labctl.guests.console import Watcher, pieces, tail, text
from labctl.sandbox import init

READY, TROUBLE = b"labctl: ready", b"labctl: error:"


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sandbox's directory whose logs may hold little."""
    (tmp_path / "console").mkdir()
    monkeypatch.setattr(init, "KEPT_HEAD", 1 << 16)
    monkeypatch.setattr(init, "KEPT_TAIL", 1 << 17)
    return tmp_path


def blocks(file: Path) -> int:
    return file.stat().st_blocks * 512


def test_a_log_that_grows_loses_its_middle_and_its_writer_notices_nothing(sandbox: Path) -> None:
    log = sandbox / "console" / "vm1.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"the beginning\n" + b"x" * (4 << 20) + b"\nthe end\n")
        init.trim(str(sandbox))
        assert blocks(log) <= init.KEPT_HEAD + init.KEPT_TAIL + init.WHOLE + 8192
        writer.write(b"and more\n")
    said = text(log)
    assert said.startswith("the beginning\nx")
    assert said.endswith("x\nthe end\nand more\n")
    assert "bytes of the console were not kept" in said
    assert "\0" not in said
    assert len(said) < init.KEPT_HEAD + init.KEPT_TAIL + init.WHOLE + 10_000
    assert tail(log, 2) == "    the end\n    and more"


def test_a_log_is_trimmed_again_and_again(sandbox: Path) -> None:
    log = sandbox / "console" / "vm1.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(20):
            writer.write(b"y" * (1 << 19) + f"\nline {number}\n".encode())
            init.trim(str(sandbox))
            assert blocks(log) <= init.KEPT_HEAD + 2 * init.KEPT_TAIL + (1 << 20)
    assert tail(log, 1) == "    line 19"


def test_a_small_log_and_what_is_no_log_stay_as_they_are(sandbox: Path) -> None:
    small, other = sandbox / "console" / "vm1.log", sandbox / "console" / "other"
    small.write_bytes(b"z" * 1000)
    other.write_bytes(b"z" * (1 << 20))
    (sandbox / "console" / "link.log").symlink_to(other)
    init.trim(str(sandbox))
    assert (small.read_bytes(), other.read_bytes()) == (b"z" * 1000, b"z" * (1 << 20))


def test_a_sandbox_without_consoles_is_nothing_to_trim(tmp_path: Path) -> None:
    init.trim(str(tmp_path))


def test_a_trimmed_log_is_copied_without_its_hole(sandbox: Path, tmp_path: Path) -> None:
    log = sandbox / "console" / "vm1.log"
    log.write_bytes(b"x" * (4 << 20))
    init.trim(str(sandbox))
    console.copy(log, tmp_path / "kept.log")
    assert (tmp_path / "kept.log").stat().st_size < 1 << 19


def test_a_log_is_read_in_small_pieces(tmp_path: Path) -> None:
    log = tmp_path / "vm1.log"
    with log.open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(1 << 14).replace(b"\0", b"."))
    assert max(len(piece) for piece in pieces(log)) <= console.CHUNK
    assert b"".join(pieces(log)) == log.read_bytes()
    assert b"".join(pieces(log, 1000)) == log.read_bytes()[1000:]
    assert b"".join(pieces(log, 1000, 200_000)) == log.read_bytes()[1000:200_000]
    assert list(pieces(log, 1000, 1000)) == []


def test_words_are_found_once_they_are_there_and_lines_once_they_are_whole(tmp_path: Path) -> None:
    log = tmp_path / "vm1.log"
    watcher = Watcher(log, READY, TROUBLE)
    assert not watcher.look()
    log.write_bytes(b"x\n[0.1] labctl: err")
    assert not watcher.look()
    with log.open("ab") as more:
        more.write(b"or: no such")
        more.flush()
        assert set(watcher.look()) == {TROUBLE}
        assert watcher.line(TROUBLE) == ""
        more.write(b" route\r\nlabctl: error: another\nlabctl: ready\n")
    assert set(watcher.look()) == {TROUBLE, READY}
    assert watcher.line(TROUBLE) == "no such route"


def test_a_flood_is_looked_at_once_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, read = tmp_path / "vm1.log", 0
    pread = os.pread

    def counting(descriptor: int, size: int, at: int) -> bytes:
        nonlocal read
        data = pread(descriptor, size, at)
        read += len(data)
        return data

    monkeypatch.setattr(os, "pread", counting)
    watcher = Watcher(log, READY)
    for _ in range(50):
        with log.open("ab") as more:
            more.write(b"y" * 50_000)
        watcher.look()
    with log.open("ab") as more:
        more.write(READY)
    assert READY in watcher.look()
    assert read == log.stat().st_size
    assert len(watcher._line) <= 1000


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"", ""),
        (b"one\r\ntwo\r\n\r\n", "two"),
        (b"[  OK  ] Started \x1b[0;1;39mssh.service\x1b[0m.\r\n", "[  OK  ] Started ssh.service."),
        (b"\x1b]0;title\x07evil\n", "\\x1b]0;title\\x07evil"),
        (b"x" * 9999, "x" * 90),
    ],
)
def test_the_last_line_is_short_and_clean(tmp_path: Path, said: bytes, shown: str) -> None:
    log = tmp_path / "vm1.log"
    log.write_bytes(said)
    assert console.last_line(log) == shown


def test_a_copy_is_without_what_is_hidden(tmp_path: Path) -> None:
    log, to = tmp_path / "vm1.log", tmp_path / "copy"
    log.write_bytes(b"Password: hunter2\n# ")
    console.copy(log, to, ["hunter2"])
    assert to.read_bytes() == b"Password: [labctl: a secret]\n# "
