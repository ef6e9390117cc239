"""KVM or TCG: what is asked of a kernel, with how much memory, and how long it is remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import HostError
from labctl.events import silent
from labctl.guests import accel
from labctl.guests.spec import Guest
from labctl.images import Image
from labctl.lab import doctor, lab
from labctl.world.space import Space


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(accel, "obstacle", lambda: "")
    return tmp_path


def choose(policy: accel.Policy) -> str:
    return accel.choose(policy, Path("k"), Path("i"), 160, "c", Path("caps"))


@pytest.mark.parametrize(("works", "chosen"), [(True, "kvm"), (False, "tcg")])
@pytest.mark.usefixtures("cache")
def test_the_probe_decides_once_a_boot(
    monkeypatch: pytest.MonkeyPatch, works: bool, chosen: str
) -> None:
    asked: list[tuple[Path, int]] = []

    def probe(kernel: Path, _initramfs: Path, memory: int, *_: object) -> bool:
        asked.append((kernel, memory))
        return works

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
    monkeypatch.setattr(accel, "probe", lambda *_: False)
    with pytest.raises(
        HostError, match="KVM is required, but a kernel under KVM did not reach"
    ) as told:
        choose("require")
    assert f"rm {accel.answer_file()}" in told.value.hint
    monkeypatch.setattr(accel, "obstacle", lambda: "there is no /dev/kvm")
    with pytest.raises(Exception, match="KVM is required, but there is no /dev/kvm"):
        choose("require")
    assert choose("auto") == "tcg"


def test_the_probed_guest_has_the_memory_that_its_image_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class World:
        directory = tmp_path

        def call(self, _: object, __: object, guest: Guest, *___: object) -> bool:
            return guest.memory == 640

        def end(self) -> None:
            pass

    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(Space, "create", lambda _: World())
    assert accel.probe(Path("k"), Path("i"), 640, "c", Path("caps"))


def test_kvm_is_tried_with_the_image_that_needs_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def chosen(*words: object) -> str:
        tried.extend(words[1:4])
        return "tcg"

    def built(name: str, memory: int) -> Image:
        return Image(name, "0", Path(name), Path(f"{name}.cpio"), "6.1", memory, 1, "")

    monkeypatch.setattr(accel, "choose", chosen)
    found = {name: built(name, memory) for name, memory in (("a", 640), ("b", 128), ("c", 160))}
    lab._choose_accel("auto", found, silent)
    assert tried == [Path("b"), Path("b.cpio"), 128]


@pytest.mark.usefixtures("cache")
def test_the_doctor_says_how_to_have_kvm_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "probe", lambda *_: False)
    choose("auto")
    (finding,) = doctor._kvm()
    assert f"rm {accel.answer_file()}" in finding.remedy


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"boot": 1}'])
def test_an_answer_that_cannot_be_read_is_asked_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (cache / "labctl").mkdir()
    (cache / "labctl" / "kvm.json").write_text(text)
    assert accel.remembered() is None
    monkeypatch.setattr(accel, "probe", lambda *_: True)
    assert choose("auto") == "kvm"
    assert accel.remembered() is True


def test_an_answer_that_cannot_be_kept_is_an_answer_all_the_same(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    monkeypatch.setattr(accel, "probe", lambda *_: True)
    assert choose("auto") == "kvm"
    assert accel.remembered() is None
