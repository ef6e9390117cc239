"""What the probe of KVM says of a boot, asked under TCG: what a guest does is ours to choose."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labctl import images
from labctl.guests import boot_probe, driver
from labctl.guests.accel import TALKATIVE
from labctl.guests.spec import Guest
from labctl.sandbox import paths, scratch

pytestmark = pytest.mark.integration

SECONDS = 240.0
MUTE = "console=ttyS1"


def why_not(
    cmdline: str, silence: float, seconds: float, initramfs: Path | None = None, memory: int = 0
) -> str:
    image = images.get("micro")
    with scratch.sandbox() as sandbox:
        root = sandbox.directory / "embed"
        guest = Guest(
            name="probe", domain="probe", memory=memory or image.memory, vcpus=1,
            kernel=image.kernel, initramfs=initramfs or image.initramfs, cmdline=cmdline, nics=(),
            console=root / "c", log=root / "c.log",
        )  # fmt: skip
        hypervisor = driver.Hypervisor(root, "", paths.cache() / "libvirt")
        told = sandbox.call(
            boot_probe.why_no_user_space, hypervisor, guest, "tcg", silence, seconds
        )
        assert sandbox.call(driver.running, hypervisor) == []
        return told


def test_a_kernel_that_reaches_user_space_leaves_nothing_to_say() -> None:
    assert why_not(f"{images.CMDLINE} {TALKATIVE}", SECONDS, SECONDS) == ""


@pytest.mark.parametrize(
    ("silence", "seconds", "told"),
    [
        (1.0, SECONDS, "a kernel said nothing for 1 s"),
        (SECONDS, 1.0, "a kernel did not reach user space in 1 s"),
    ],
)
def test_a_console_that_stays_empty_is_told_as_that(
    silence: float, seconds: float, told: str
) -> None:
    assert why_not(MUTE, silence, seconds) == told


def test_a_kernel_that_panics_is_told_with_its_own_words(tmp_path: Path) -> None:
    nothing = tmp_path / "initramfs"
    nothing.write_bytes(bytes(512))
    told = why_not(images.CMDLINE, SECONDS, SECONDS, initramfs=nothing)
    assert re.match(r"the guest died: kernel panic.*root", told)


def test_what_qemu_refuses_is_told_in_its_own_words() -> None:
    told = why_not(MUTE, SECONDS, SECONDS, memory=2**30)
    assert told.startswith("QEMU cannot use it: ")
    assert "error:" not in told
    assert "monitor" not in told
