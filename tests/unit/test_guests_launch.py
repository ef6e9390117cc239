"""QEMU runs nothing of its guest before all is taken from it; with no libvirt and no namespaces."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from test_guests_domain import BARE

from labctl.errors import HostError
from labctl.guests import confinement, launch
from labctl.guests.spec import Dom0
from labctl.lab import doctor
from labctl.sandbox import confine


class Libvirt:
    """A connection, its one domain, and what was asked of them and of the kernel, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.flags = 0
        self.xml = ""

    def create(self, xml: str, flags: int) -> Libvirt:
        self.xml, self.flags = xml, flags
        self.asked.append("create")
        return self

    def destroy(self) -> None:
        self.asked.append("destroy")

    def resume(self) -> None:
        self.asked.append("resume")


@pytest.fixture
def libvirt(monkeypatch: pytest.MonkeyPatch) -> Libvirt:
    made = Libvirt()
    vars(made)["createXML"] = made.create  # libvirt's name, not one of this style
    for name in ("own_mounts", "view", "no_more_rights", "empty_view"):

        def record(*_args: object, name: str = name, **_more: object) -> None:
            made.asked.append(name)

        monkeypatch.setattr(confine, name, record)
    monkeypatch.setattr(launch, "in_user_namespace", lambda: False)
    return made


def test_the_guest_runs_only_when_all_is_taken_from_its_qemu(
    libvirt: Libvirt, tmp_path: Path
) -> None:
    pytest.importorskip("libvirt")
    launch.launch(libvirt, tmp_path, BARE, "tcg", "x")
    assert libvirt.asked == [
        "own_mounts", "view", "no_more_rights", "create", "empty_view", "resume"
    ]  # fmt: skip
    assert libvirt.flags == 1  # VIR_DOMAIN_START_PAUSED
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["own_mounts", "view", "no_more_rights", "empty_view"])
def test_a_host_that_forbids_a_step_runs_no_guest(
    libvirt: Libvirt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    pytest.importorskip("libvirt")

    def refuse(*_args: object, **_more: object) -> None:
        raise OSError(errno.EPERM, "pivot_root: Operation not permitted")

    monkeypatch.setattr(confine, step, refuse)
    with pytest.raises(HostError, match="QEMU cannot be confined: pivot_root"):
        launch.launch(libvirt, tmp_path, BARE, "tcg", "x")
    assert "resume" not in libvirt.asked
    assert ("destroy" in libvirt.asked) == ("create" in libvirt.asked)


def labels(xml: str) -> list[str | None]:
    return [one.text for one in ElementTree.fromstring(xml).iterfind("seclabel/label")]


def test_roots_qemus_are_users_of_their_own(libvirt: Libvirt, tmp_path: Path) -> None:
    pytest.importorskip("libvirt")
    found = set()
    for _ in range(3):
        launch.launch(libvirt, tmp_path, BARE, "tcg", "x")
        (label,) = labels(libvirt.xml)
        assert label
        user, group = (int(one.removeprefix("+")) for one in label.split(":"))
        assert launch.FIRST_USER <= user == group < 0x7FFE0000
        found.add(user)
    assert len(found) == 3


def test_an_ordinary_users_qemu_stays_theirs(
    libvirt: Libvirt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("libvirt")
    monkeypatch.setattr(launch, "in_user_namespace", lambda: True)
    launch.launch(libvirt, tmp_path, BARE, "tcg", "x")
    assert labels(libvirt.xml) == []


def test_kvms_group_is_taken_only_for_kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(launch, "KVM", device)
    theirs = device.stat().st_gid
    assert launch.group(7, "kvm") == (theirs or 7)
    assert launch.group(7, "tcg") == 7
    monkeypatch.setattr(launch, "KVM", tmp_path / "none")
    assert launch.group(7, "kvm") == 7


def test_qemu_sees_every_file_that_its_guest_is_made_of() -> None:
    files = {name: Path("/img", name) for name in ("dom0", "conf", "drive")}
    guest = dataclasses.replace(
        BARE,
        dom0=Dom0(files["dom0"], ""),
        config=files["conf"],
        drives=(files["drive"],),
    )
    assert set(guest.files()) == {BARE.kernel, BARE.initramfs, *files.values()}


BEST = confinement.Confinement(
    user=7, own_user=True, capabilities=False, gains_rights=False, seccomp=True, files=0
)


def test_doctor_tells_in_one_line_how_qemu_is_confined() -> None:
    found = doctor._confinement(BEST)
    assert found.verdict == "pass"
    assert found.observed == (
        "QEMU has no capability, a user of its own (7), seccomp, no file of the host in view"
    )
    users = doctor._confinement(dataclasses.replace(BEST, own_user=False))
    assert (users.verdict, "user of its own" in users.observed) == ("pass", False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"capabilities": True}, "has capabilities"),
        ({"gains_rights": True}, "may gain rights"),
        ({"seccomp": False}, "has no seccomp filter"),
        ({"files": 3}, "sees files of the host"),
    ],
)
def test_doctor_tells_what_is_not_in_effect(change: dict[str, Any], words: str) -> None:
    found = doctor._confinement(dataclasses.replace(BEST, **change))
    assert found.verdict == "skip"
    assert words in found.observed
    assert found.remedy
