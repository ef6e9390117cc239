"""What doctor tells of a host that refuses something, with no sandbox made."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labctl.errors import HostError
from labctl.images.assemble import ListedImage
from labctl.images.cache import Image
from labctl.lab import doctor
from labctl.lab.doctor import Finding


def part(error: Exception) -> Callable[[], Iterator[Finding]]:
    def look() -> Iterator[Finding]:
        """A part."""
        yield Finding("first", "pass", "there")
        raise error

    return look


def test_a_host_that_refuses_a_file_is_a_finding_and_the_rest_is_examined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/run/labctl/x")
    monkeypatch.setattr(doctor, "PARTS", (part(full), part(HostError("no", "do this"))))
    found = doctor.examine()
    assert [one.verdict for one in found] == ["pass", "fail", "pass", "fail"]
    assert found[1].observed == "/run/labctl/x: No space left on device"
    assert "free some space" in found[1].remedy
    assert found[3].remedy == "do this"


def test_doctor_sends_nobody_to_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PARTS", (part(HostError("no", "run: labctl doctor")),))
    assert [one.remedy for one in doctor.examine()] == ["", ""]


@pytest.mark.parametrize(("built", "verdict"), [(False, "fail"), (True, "skip")])
def test_a_cache_that_cannot_be_written_to_is_told_with_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: bool, verdict: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    image = Image("micro", "ab", tmp_path, tmp_path, "6.1", 128, 1, "") if built else None
    listed = [ListedImage("micro", "", "ab", image)]
    monkeypatch.setattr("labctl.images.list_images", lambda: listed)
    (found,) = doctor._cache()
    assert (found.name, found.verdict) == ("cache", verdict)
    assert found.remedy


def test_a_cache_that_can_be_written_to_is_not_worth_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert list(doctor._cache()) == []
    assert list((tmp_path / "labctl").iterdir()) == []
