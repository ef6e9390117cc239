"""KVM or TCG: what is asked of a kernel, with how much memory, and how long it is remembered."""

from __future__ import annotations

import errno
import grp
import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from labctl.errors import HostError
from labctl.events import Event, silent
from labctl.guests import accel, boot_probe, driver
from labctl.guests.spec import Guest
from labctl.images import Image
from labctl.lab import doctor, preflight
from labctl.sandbox.namespaces import Namespaces
from labctl.topology import from_mapping


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(accel, "obstacle", lambda: None)
    return tmp_path


def choose(policy: accel.Policy) -> str:
    return accel.choose(policy, Path("k"), Path("i"), 160, "c", Path("caps"))


SILENT = accel.Answer("a kernel said nothing for 10 s")


@pytest.mark.parametrize(("answer", "chosen"), [(accel.Answer(), "kvm"), (SILENT, "tcg")])
@pytest.mark.usefixtures("cache")
def test_the_probe_decides_once_a_boot(
    monkeypatch: pytest.MonkeyPatch, answer: accel.Answer, chosen: str
) -> None:
    asked: list[tuple[Path, int]] = []

    def probe(kernel: Path, _initramfs: Path, memory: int, *_: object) -> accel.Answer:
        asked.append((kernel, memory))
        return answer

    monkeypatch.setattr(accel, "probe", probe)
    assert choose("auto") == chosen
    assert choose("auto") == chosen
    assert asked == [(Path("k"), 160)]
    monkeypatch.setattr(accel, "_boot", lambda: "another boot")
    choose("auto")
    assert len(asked) == 2
    accel.answer_file().unlink()
    choose("auto")
    assert len(asked) == 3


@pytest.mark.usefixtures("cache")
def test_off_never_probes_and_require_never_settles_for_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accel, "probe", lambda *_: pytest.fail("probed"))
    assert choose("off") == "tcg"
    monkeypatch.setattr(accel, "probe", lambda *_: SILENT)
    for _ in ("found out", "remembered"):
        with pytest.raises(
            HostError, match=r"KVM is required, but .*said nothing for 10 s"
        ) as told:
            choose("require")
        assert f"rm {accel.answer_file()}" in told.value.hint
    lacking = HostError("there is no /dev/kvm", "do this")
    monkeypatch.setattr(accel, "obstacle", lambda: lacking)
    with pytest.raises(HostError, match="KVM is required, but there is no /dev/kvm") as told:
        choose("require")
    assert told.value.hint.startswith("do this")
    assert choose("auto") == "tcg"


def test_the_probed_guest_has_the_memory_that_its_image_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sandbox:
        directory = tmp_path

        def call(self, _: object, __: object, guest: Guest, *___: object) -> str:
            return "" if guest.memory == 640 else f"{guest.memory} MiB"

        def end(self) -> None:
            pass

    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(Namespaces, "create", lambda _: Sandbox())
    assert accel.probe(Path("k"), Path("i"), 640, "c", Path("caps")) == accel.Answer()


def test_kvm_is_tried_with_the_image_that_needs_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def chosen(*words: object) -> str:
        tried.extend(words[1:4])
        return "tcg"

    def built(name: str, memory: int) -> Image:
        return Image(name, "0", Path(name), Path(f"{name}.cpio"), "6.1", memory, 1, "")

    monkeypatch.setattr(accel, "choose", chosen)
    found = {name: built(name, memory) for name, memory in (("a", 640), ("b", 128), ("c", 160))}
    nodes = list(from_mapping({"networks": {"lan": {}}, "nodes": {"x": {}}}).nodes.values())
    preflight.choose_accel("auto", nodes, found, silent)
    assert tried == [Path("b"), Path("b.cpio"), 128]


@pytest.mark.usefixtures("cache")
def test_why_kvm_boots_nothing_is_told_where_it_is_found_out_and_by_the_doctor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accel, "probe", lambda *_: SILENT)
    events: list[Event] = []
    accel.choose("auto", Path("k"), Path("i"), 160, "c", Path("caps"), events.append)
    assert SILENT.obstacle in events[-1].detail
    (finding,) = doctor._kvm()
    assert SILENT.obstacle in finding.observed
    assert f"rm {accel.answer_file()}" in finding.remedy


@pytest.mark.usefixtures("cache")
def test_an_answer_without_a_reason_an_earlier_labctls_is_asked_again() -> None:
    accel._remember(SILENT)
    known = json.loads(accel.answer_file().read_text())
    assert accel.remembered() == SILENT
    known.pop("obstacle")
    accel.answer_file().write_text(json.dumps(known | {"works": False}))
    assert accel.remembered() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"boot": 1}'])
def test_an_answer_that_cannot_be_read_is_asked_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (cache / "labctl").mkdir()
    (cache / "labctl" / "kvm.json").write_text(text)
    assert accel.remembered() is None
    monkeypatch.setattr(accel, "probe", lambda *_: accel.Answer())
    assert choose("auto") == "kvm"
    assert accel.remembered() == accel.Answer()


def test_an_answer_that_cannot_be_kept_is_an_answer_all_the_same(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    monkeypatch.setattr(accel, "probe", lambda *_: accel.Answer())
    assert choose("auto") == "kvm"
    assert accel.remembered() is None


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "kvm"
    file.touch()
    monkeypatch.setattr(accel, "DEVICE", file)
    return file


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refused(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refused)


def belongs(
    monkeypatch: pytest.MonkeyPatch, mode: int, group: int, members: list[str], *session: int
) -> None:
    """Let the device be a group's, with members in the database and groups of this log-in."""
    status = SimpleNamespace(st_mode=0o020000 | mode, st_gid=group)
    monkeypatch.setattr(accel, "DEVICE", SimpleNamespace(stat=lambda: status, __str__=str))
    monkeypatch.setattr(os, "getgid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [1000, *session])
    monkeypatch.setattr(grp, "getgrgid", lambda _: SimpleNamespace(gr_name="kvm", gr_mem=members))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name="eve", pw_gid=1000))


def test_a_device_that_opens_is_no_obstacle(device: Path) -> None:
    assert device.exists()
    assert accel.obstacle() is None


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV, errno.ENXIO])
@pytest.mark.parametrize(
    ("flags", "remedy"),
    [("fpu svm", "modprobe kvm_amd"), ("vmx fpu", "modprobe kvm_intel"), ("fpu", "firmware")],
)
@pytest.mark.usefixtures("device")
def test_a_device_that_nobody_serves_needs_its_module_or_the_firmware(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, flags: str, remedy: str
) -> None:
    cpus = tmp_path / "cpuinfo"
    cpus.write_text(f"processor : 0\nflags\t\t: {flags}\nbugs\t: svm_none\n")
    monkeypatch.setattr(accel, "CPUS", cpus)
    refuse(monkeypatch, number)
    lacking = accel.obstacle()
    assert lacking
    assert remedy in lacking.hint


@pytest.mark.parametrize(
    ("mode", "group", "members", "session", "remedy"),
    [
        (0o660, 106, ["ann"], [], "as root, run: usermod -aG kvm eve, and log in again; for now, "),
        (0o660, 106, ["ann", "eve"], [], "log in again, or for now run: newgrp kvm"),
        (0o660, 106, ["eve"], [106], ""),
        (0o660, 1000, [], [], ""),
        (0o600, 106, [], [], ""),
        (0o660, 0, [], [], ""),
    ],
)
def test_a_device_of_others_is_told_with_its_group_and_the_way_into_it(
    monkeypatch: pytest.MonkeyPatch,
    mode: int,
    group: int,
    members: list[str],
    session: list[int],
    remedy: str,
) -> None:
    belongs(monkeypatch, mode, group, members, *session)
    refuse(monkeypatch, errno.EACCES)
    lacking = accel.obstacle()
    assert lacking
    assert "group kvm" in lacking.message
    acl = f"as root, run: setfacl -m u:eve:rw {accel.DEVICE}"
    assert lacking.hint == (remedy if remedy.endswith("newgrp kvm") else remedy + acl)


@pytest.mark.usefixtures("device")
def test_a_device_that_a_container_forbids_is_not_told_as_a_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse(monkeypatch, errno.EPERM)
    lacking = accel.obstacle()
    assert lacking
    assert "--device" in lacking.hint


@pytest.mark.parametrize(
    ("said", "first"),
    [
        (
            "internal error: process exited while connecting to monitor: Could not access KVM "
            "kernel module: Permission denied\n2026-01-01T00:00:00.000000Z qemu-system-x86_64: "
            "failed to initialize kvm: Permission denied",
            "Could not access KVM kernel module: Permission denied",
        ),
        (
            "internal error: QEMU unexpectedly closed the monitor (vm='probe'): "
            "2026-01-01T00:00:00.000000Z qemu-system-x86_64: error: failed to set MSR 0x10a\nmore",
            "error: failed to set MSR 0x10a",
        ),
        (
            "unsupported configuration: Emulator '/usr/bin/qemu-system-x86_64' does not support "
            "virt type 'kvm'",
            "Emulator '/usr/bin/qemu-system-x86_64' does not support virt type 'kvm'",
        ),
    ],
)
def test_of_what_libvirt_says_the_first_words_of_qemu_are_told(said: str, first: str) -> None:
    assert boot_probe._first_words(said) == first


def test_what_qemu_said_before_it_gave_up_is_found_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "probe.log"
    command = (
        "2026-01-01 00:00:00.000+0000: starting up libvirt version: 9.0.0, hostname: vm\n"
        "LC_ALL=C.UTF-8 \\\n/usr/bin/qemu-system-x86_64 \\\n-msg timestamp=on\n"
        "2026-01-01 00:00:00.100+0000: Domain id=1 is tainted: custom-hypervisor-feature\n"
    )
    log.write_text(f"{command}KVM internal error. Suberror: 1\nEAX=00000000 EBX=00000000\n")
    assert boot_probe._of_qemu(log) == "KVM internal error. Suberror: 1"
    log.write_text(f"{command}2026-01-01 00:00:01.000+0000: shutting down, reason=crashed\n")
    assert boot_probe._of_qemu(log) == ""
    assert boot_probe._of_qemu(tmp_path / "none") == ""


class Slow:
    """A domain that runs, and a clock that goes on by a second whenever somebody sleeps."""

    def __init__(self, log: Path, says: Callable[[float], bytes]) -> None:
        self.now = 0.0
        self._log, self._says = log, says

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        self.now += 1.0
        with self._log.open("ab") as log:
            log.write(self._says(self.now))

    def state(self) -> tuple[int, int]:
        return 1, 0  # VIR_DOMAIN_RUNNING


def probed(log: Path) -> Guest:
    return Guest(
        name="probe", domain="probe", memory=160, vcpus=1, kernel=Path("k"), initramfs=Path("i"),
        cmdline="c", nics=(), console=log.parent / "c", log=log,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (lambda now: b"labctl: no configuration\n" if now == 50 else b".", ""),
        (lambda now: b"." if now <= 30 else b"", "a kernel went silent for 10 s"),
        (lambda _: b".", "a kernel did not reach user space in 300 s"),
        (lambda _: b"", "a kernel said nothing for 10 s"),
    ],
)
def test_a_slow_kernel_is_waited_for_as_long_as_it_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: Callable[[float], bytes], told: str
) -> None:
    log = tmp_path / "log"
    log.touch()
    slow = Slow(log, says)
    monkeypatch.setattr(boot_probe, "time", slow)
    monkeypatch.setattr("labctl.sandbox.deadline.time", slow)
    monkeypatch.setattr(
        boot_probe, "libvirt", SimpleNamespace(VIR_DOMAIN_RUNNING=1, libvirtError=OSError)
    )
    limits = accel.SILENCE_SECONDS, accel.PROBE_SECONDS
    told_now = boot_probe._silent_or_ended(slow, driver.Hypervisor(tmp_path), probed(log), *limits)
    assert told_now == told


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.1, ""),
        (1.0, "a kernel ran for 60 s and did not reach user space"),
        (0.0, "a kernel said nothing for 10 s"),
    ],
)
def test_a_mute_kernel_is_waited_for_as_long_as_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, told: str
) -> None:
    """`share` of its time a virtual CPU gets to run it."""
    log = tmp_path / "log"
    log.touch()
    slow = Slow(log, lambda now: b"labctl: no configuration\n" if now >= 100 else b"")
    monkeypatch.setattr(boot_probe, "time", slow)
    monkeypatch.setattr("labctl.sandbox.deadline.time", slow)
    monkeypatch.setattr(
        boot_probe, "_guest_ticks", lambda *_: int(slow.now * boot_probe.TICKS * share)
    )
    monkeypatch.setattr(
        boot_probe, "libvirt", SimpleNamespace(VIR_DOMAIN_RUNNING=1, libvirtError=OSError)
    )
    limits = accel.SILENCE_SECONDS, accel.PROBE_SECONDS
    found = boot_probe._silent_or_ended(slow, driver.Hypervisor(tmp_path), probed(log), *limits)
    assert found == told


def test_what_ran_of_a_guest_is_what_linux_counts_for_its_qemu(tmp_path: Path) -> None:
    hypervisor = driver.Hypervisor(tmp_path)
    guest = probed(tmp_path / "log")
    assert boot_probe._guest_ticks(hypervisor, guest) == 0
    pids = tmp_path / "run" / "qemu"
    pids.mkdir(parents=True)
    (pids / "probe.pid").write_text(f"{os.getpid()}\n")
    assert boot_probe._guest_ticks(hypervisor, guest) == 0  # this process runs no guest
