"""Ports of this host that lead to guests: what is written about a relay, and when."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from labctl.lab import publish
from labctl.lab.published import FOLDER, Published


def test_a_relay_can_be_found_from_its_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one whose maker is killed right then would listen, and could not be stopped."""
    noted: list[bool] = []

    def killed(*_words: object, **_files: object) -> Any:
        noted.append((tmp_path / FOLDER / "8080-127.0.0.1.json").is_file())
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "start_as", killed)
    lab = SimpleNamespace(
        directory=tmp_path, sandbox=SimpleNamespace(python=["python"], words=lambda argv: argv)
    )
    with socket.socket() as server, pytest.raises(KeyboardInterrupt):
        publish._start(cast("Any", lab), Published("127.0.0.1", 8080, "vm1", 80), server)
    assert noted == [True]
