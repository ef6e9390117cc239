"""An image is found without reading recipes that were read before, and never when one changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from labctl import images
from labctl.errors import UsageError
from labctl.images import Image, assemble, cache, recipe

BASE = {"suite": "bookworm", "kernel": "linux", "memory": 64, "packages": ["tools"], "files": []}
LOCK = {
    "archive": "debian",
    "suite": "bookworm",
    "kernel": "linux",
    "kernel_package": "linux",
    "packages": [
        {"name": name, "version": "1", "sha256": "0" * 64, "size": 1, "path": f"pool/{name}.deb"}
        for name in ("linux", "tools")
    ],
}


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the recipe `mine`, which extends `base`; every image is built."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def built(name: str, digest: str) -> Image:
        return Image(name, digest, Path("kernel"), Path("initramfs"), "6.1", 64, 1, "")

    monkeypatch.setattr(cache, "find", built)
    top = tmp_path / "config/labctl/images"
    for name, fields in (("base", BASE), ("mine", {"extends": "base"})):
        write(top / name / "recipe.yaml", {**fields, "add": {"/init": {"file": "init"}}})
        write(top / name / "lock.yaml", LOCK)
        (top / name / "init").write_text("#!/bin/sh\n")
    return top


def write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recipes that were really read."""
    seen: list[str] = []
    real = recipe.load

    def noting(name: str) -> recipe.LoadedRecipe:
        seen.append(name)
        return real(name)

    monkeypatch.setattr(recipe, "load", noting)
    return seen


@pytest.mark.usefixtures("recipes")
def test_a_recipe_is_read_once(reads: list[str]) -> None:
    assert images.get("mine") == images.get("mine")
    assert images.get("base") != images.get("mine")
    assert reads == ["mine", "base"]


@pytest.mark.parametrize("file", ["mine/init", "mine/lock.yaml", "base/recipe.yaml"])
def test_a_change_of_any_file_is_seen(recipes: Path, reads: list[str], file: str) -> None:
    before = images.get("mine").digest
    text = (recipes / file).read_text()
    changed = text.replace("/sh", "/ash").replace("version: '1'", "version: '2'")
    (recipes / file).write_text(changed.replace("memory: 64", "memory: 65"))
    assert images.get("mine").digest != before
    (recipes / file).write_text(text)
    assert images.get("mine").digest == before
    assert reads == ["mine", "mine"]


def test_a_recipe_of_the_users_wins_as_soon_as_it_is_there(recipes: Path, reads: list[str]) -> None:
    shipped = images.get("micro").digest
    write(recipes / "micro/recipe.yaml", BASE)
    write(recipes / "micro/lock.yaml", LOCK)
    assert images.get("micro").digest != shipped
    assert reads == ["micro", "micro"]


def test_a_recipe_with_files_from_elsewhere_is_read_each_time(
    recipes: Path, reads: list[str], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("one")
    write(recipes / "base/recipe.yaml", {**BASE, "add": {"/x": {"file": str(outside)}}})
    before = images.get("mine").digest
    outside.write_text("two")
    assert images.get("mine").digest != before
    assert reads == ["mine", "mine"]


def test_a_wrong_recipe_is_told_each_time(recipes: Path) -> None:
    (recipes / "mine/lock.yaml").unlink()
    for _ in range(2):
        with pytest.raises(UsageError, match="no lock"):
            images.get("mine")


@pytest.mark.usefixtures("recipes")
def test_an_image_that_was_removed_is_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = images.get("mine")
    made: list[str] = []

    def build(name: str, **_: object) -> Image:
        made.append(name)
        return before

    monkeypatch.setattr(cache, "find", lambda *_: None)
    monkeypatch.setattr(assemble, "build", build)
    assert images.get("mine") == before
    assert made == ["mine"]
