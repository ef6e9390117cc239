"""Programs of links by what is noted of them: whose process, whose module, which are a lab's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labctl.errors import HostError
from labctl.kinds.base import LinkProgram
from labctl.network import confined, programs
from labctl.network.confined import Launch, Noted


def test_what_is_told_comes_over_as_it_was() -> None:
    told = Launch(
        Path("/n"), Path("/h"), Path("/v"), (Path("/r"),), ("/bin/sh", "-c", "a 'b'"), {"A": "ä"}
    )
    assert Launch.of(told.text()) == told


def process(folder: Path, letter: str, began: int) -> Path:
    """Make a folder like one of proc(5), of a program with a name that has all in it."""
    fields = [letter, *("0" for _ in range(18)), str(began), "0"]
    (folder / "stat").write_text(f"7 (a) b (c) {' '.join(fields)}\n")
    return folder


@pytest.mark.parametrize(
    ("letter", "began", "alive"),
    [("S", 5, True), ("T", 5, True), ("Z", 5, False), ("X", 5, False), ("S", 6, False)],
)
def test_a_process_is_known_by_its_number_and_its_beginning(
    tmp_path: Path, letter: str, began: int, alive: bool
) -> None:
    assert Noted(7, 5).is_it(process(tmp_path, letter, began)) is alive
    assert not Noted(7, 5).is_it(tmp_path / "gone")


@pytest.mark.parametrize("text", ["", "7", "7 x", "7 5 3", None])
def test_a_note_that_is_not_whole_is_none(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "a.pid"
    if text is not None:
        file.write_text(text)
    assert confined.noted(file) is None


def test_only_the_process_that_was_noted_is_ended(tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.pid").write_text(f"{os.getpid()} 1")  # this one began at another time
    (tmp_path / "links" / "b.pid").write_text("")
    programs.end_all(tmp_path)
    programs.end_all(tmp_path / "no lab")


def test_a_module_is_looked_for_where_python_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "switching" / "fast").mkdir(parents=True)
    for name in ("switching/__init__.py", "switching/fast/__init__.py", "switching/slow.py"):
        (tmp_path / name).touch()
    monkeypatch.syspath_prepend(tmp_path)

    def root(module: str) -> Path:
        program = LinkProgram("lan-sw", module, is_python=True)
        return programs.folder_of(programs.OfNetwork("lan", "lan", program))

    for module in ("switching", "switching.fast", "switching.slow"):
        assert root(module) == tmp_path
    with pytest.raises(HostError, match="Python has no module switching"):
        root("switching.not_there")
