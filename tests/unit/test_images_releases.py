"""Images with the kernel of another release in place of their own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import debian_archive
import pytest
import yaml
from debian_archive import Archive, archive, deb

from labctl import images
from labctl.errors import LabctlError, UsageError
from labctl.images import assemble, recipe, recipe_paths, releases
from labctl.images.locks import Lock

__all__ = ["archive"]

OLD = "linux-image-old"
SPLIT = {
    "linux-image-8": deb({"usr/share/doc/nothing": b""}),
    "linux-binary-8": deb({"lib/modules/8-new/vmlinuz": b"a newer kernel"}),
}


def pin(archive: Archive, name: str, content: dict[str, bytes], **more: Any) -> Path:
    """Pin a kernel of the recipe `mine` under a name, of packages that the archive then has."""
    packages = []
    for package, data in content.items():
        (archive.pool / f"{package}.deb").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        packages.append(
            {"name": package, "version": "1", "sha256": digest, "size": len(data)}
            | {"path": f"pool/main/{package}.deb"}
        )
    kernel = {"archive": "debian", "suite": "old", "kernel": debian_archive.RECIPE["kernel"]}
    kernel |= {"kernel_package": next(iter(content)), "packages": packages}
    kernel |= {"kernel_parts": list(content)[1:]} if len(content) > 1 else {}
    file = archive.recipes / f"kernels/{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"suite": "old", "kernels": [kernel], **more}))
    return file


@pytest.fixture
def old(archive: Archive) -> Archive:
    archive.write()
    pin(archive, "debian-3", {OLD: deb({"boot/vmlinuz-2.4-old": b"an old kernel"})})
    return archive


@pytest.mark.usefixtures("old")
def test_an_image_with_another_kernel_is_an_image_of_its_own() -> None:
    own, other = images.get("mine"), images.get("mine@debian-3")
    assert (own.kernel_release, other.kernel_release) == (debian_archive.RELEASE, "2.4-old")
    assert other.kernel.read_bytes() == b"an old kernel"
    assert other.digest != own.digest
    assert images.get("mine@debian-3") == other
    assert [one.name for one in images.list_images() if one.name.startswith("mine")] == [
        "mine",
        "mine@debian-3",
    ]


@pytest.mark.usefixtures("old")
def test_it_goes_with_the_image_that_it_is_of() -> None:
    for name in ("mine", "mine@debian-3"):
        images.get(name)
    (gone,) = images.remove("mine@debian-3")
    assert gone.startswith("mine@debian-3-")
    images.get("mine@debian-3")
    both = images.remove("mine")
    assert [name.rpartition("-")[0] for name in both] == ["mine", "mine@debian-3"]


def test_a_kernel_in_several_packages_is_found_beside_its_modules(archive: Archive) -> None:
    archive.write()
    pin(archive, "debian-8", SPLIT, memory=16)
    made = images.get("mine@debian-8")
    assert made.kernel_release == "8-new"
    assert made.kernel.read_bytes() == b"a newer kernel"
    assert made.memory == debian_archive.RECIPE["memory"] + 16


def test_a_changed_pin_makes_another_image(old: Archive) -> None:
    first = images.get("mine@debian-3")
    pin(old, "debian-3", {OLD: deb({"boot/vmlinuz-2.4-old": b"the next one"})})
    assert images.get("mine@debian-3").digest != first.digest


@pytest.mark.parametrize("damage", ["gone", "other bytes"])
def test_a_package_that_cannot_be_had_is_told_with_its_kernels_name(
    old: Archive, damage: str
) -> None:
    place = old.pool / f"{OLD}.deb"
    place.unlink() if damage == "gone" else place.write_bytes(b"x" * len(place.read_bytes()))
    with pytest.raises(LabctlError) as told:
        images.get("mine@debian-3")
    assert OLD in told.value.message
    assert told.value.hint.startswith("run: labctl image lock debian-3;")


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("name", ["mine@debian-4", "mine@../debian-3", "mine@a@b"])
def test_an_unknown_kernel_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(UsageError, match="there is no kernel") as told:
        images.get(name)
    assert "debian-3" in told.value.hint


def test_a_recipe_whose_kernel_no_release_has_is_refused(old: Archive) -> None:
    file = pin(old, "debian-3", {OLD: b"x"})
    content = yaml.safe_load(file.read_text())
    content["kernels"][0]["kernel"] = "linux-image-rt"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="no kernel linux-image-test of old is pinned") as told:
        images.get("mine@debian-3")
    assert told.value.hint == "pinned are: linux-image-rt"


def test_a_damaged_pin_is_told_with_its_file(old: Archive) -> None:
    file = pin(old, "debian-3", {OLD: b"x"}, more="than there is")
    with pytest.raises(UsageError, match=f"^{file}: more: ") as told:
        images.get("mine@debian-3")
    assert told.value.hint == "run: labctl image lock debian-3"


def test_a_kernel_is_pinned_anew_with_what_else_its_file_says(
    old: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pin(old, "debian-3", {OLD: b"x"}, memory=16)

    class Mirror:
        @staticmethod
        def pin(wanted: recipe.Recipe, **_: object) -> Lock:
            (known,) = releases.load("debian-3").kernels
            return known.model_copy(update={"kernel": wanted.kernel, "suite": wanted.suite})

    monkeypatch.setattr(assemble, "mirror", Mirror)
    assert images.lock("debian-3") == file
    found = releases.load("debian-3")
    assert (found.suite, found.memory) == ("old", 16)
    assert tuple(one.kernel for one in found.kernels) == releases.FLAVOURS


def test_shipped_kernels_are_pinned_for_all_shipped_recipes() -> None:
    names = sorted(recipe_paths.kernels())
    assert names == ["debian-11", "debian-12", "debian-13", "debian-sid"]
    for name in names:
        assert "://" not in releases.lock_file(name).read_text()
        for image in ("micro", "micro-generic"):
            loaded = recipe.load(f"{image}@{name}")
            lock = loaded.lock()
            assert lock.kernel == loaded.recipe.kernel
            assert {*lock.of_kernel, *loaded.recipe.wanted} == {p.name for p in lock.packages}
