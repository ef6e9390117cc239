"""Where recipes lie: the user's own first, then those that come with labctl."""

from __future__ import annotations

from pathlib import Path

from labctl import shipped
from labctl.sandbox import paths


def folders() -> list[Path]:
    """Return the folders that hold recipes: the user's own first, then those of labctl.

    Raises `HostError` where the user has no home.
    """
    return [paths.config() / "images", shipped.folder("images")]


def names() -> list[str]:
    """Return the names of all recipes, sorted."""
    return sorted({file.parent.name for top in folders() for file in top.glob("*/recipe.yaml")})


def files() -> list[Path]:
    """Return every file in a recipe's folder, in the order that decides which recipe wins."""
    return [
        file
        for top in folders()
        for recipe in sorted(top.glob("*/recipe.yaml"))
        for file in sorted(recipe.parent.rglob("*"))
        if file.is_file()
    ]
