"""The real image of a Xen host."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl import images
from labctl.images import cache

pytestmark = pytest.mark.integration


def test_built_twice_it_is_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = images.get("xen-host")
    packages = cache.packages()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "labctl").mkdir()
    (tmp_path / "labctl/packages").symlink_to(packages)
    again = images.build("xen-host")
    assert again.digest == first.digest
    assert first.hypervisor
    assert again.hypervisor
    for one, other in (
        (first.hypervisor, again.hypervisor),
        (first.kernel, again.kernel),
        (first.initramfs, again.initramfs),
    ):
        assert one.read_bytes() == other.read_bytes()
