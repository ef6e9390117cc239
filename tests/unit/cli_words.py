"""Calling labctl in the test's own process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labctl.cli import main, out


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of the test's own; and no signal handlers of `main` in the test's process."""
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(tmp_path))
    for name in ("LABCTL_ACCEL", "LABCTL_CONNECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "labctl").mkdir()
    return tmp_path / "labctl"


class Told:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


Labctl = Callable[..., Told]


@pytest.fixture
def labctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Labctl:
    def call(*words: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["labctl", *words])
        for name in ("stdout", "stderr"):  # `main` puts its own there
            monkeypatch.setattr(sys, name, out.raw(getattr(sys, name)))
        with pytest.raises(SystemExit) as ended:
            main.main()
        said, errors = capsys.readouterr()
        return Told(int(ended.value.code or 0), said, errors)

    return call


def raising(error: BaseException) -> Callable[..., Any]:
    def body(*_: object, **__: object) -> None:
        raise error

    return body
