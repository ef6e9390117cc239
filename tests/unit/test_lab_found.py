"""What `labctl version` tells of a host, also of one that has nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_words import Labctl

from labctl.guests import accel
from labctl.lab import found
from labctl.version import __version__

pytest_plugins = ["cli_words"]
pytestmark = pytest.mark.usefixtures("runtime")


def test_a_host_without_anything_is_told_of_without_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, labctl: Labctl
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(found, "EMULATOR", str(tmp_path / "qemu"))
    monkeypatch.setattr(found, "_libvirt", lambda: "")
    monkeypatch.setattr(accel, "DEVICE", tmp_path / "kvm")
    told = json.loads(labctl("version", "--json").out)
    assert (told["labctl"], told["qemu"], told["accelerator"]) == (__version__, "", "tcg")
    assert told["images"]["micro"] is False
    lines = labctl("version").out.splitlines()
    assert lines[0].startswith(f"labctl:      {__version__} (")
    assert "QEMU:        not found; run: labctl doctor" in lines


def test_qemu_is_known_by_its_own_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_text("#!/bin/sh\necho 'QEMU emulator version 7.2.17 (Debian 1:7.2)'\n")
    program.chmod(0o755)
    monkeypatch.setattr(found, "EMULATOR", str(program))
    assert found.find().qemu == "7.2.17"
    program.write_text("#!/bin/sh\necho something else\n")
    assert found.find().qemu == ""
