"""Where recipes and locks of kernels lie: the user's own first, then those of labctl."""

from __future__ import annotations

from pathlib import Path

from labctl import shipped
from labctl.errors import UsageError, shown
from labctl.sandbox import paths

KERNELS = "kernels"
"""The folder beside recipes with the locks of releases' kernels."""


def folders() -> list[Path]:
    """Return the folders that hold recipes: the user's own first, then those of labctl.

    Raises `HostError` where the user has no home.
    """
    return [paths.config() / "images", shipped.folder("images")]


def names() -> list[str]:
    """Return the names of all recipes, sorted."""
    return sorted({file.parent.name for top in folders() for file in top.glob("*/recipe.yaml")})


def kernels() -> dict[str, Path]:
    """Return the files of the kernels that can be named, by name."""
    found = [file for top in folders() for file in sorted((top / KERNELS).glob("*.yaml"))]
    return {file.stem: file for file in reversed(found)}


def check_kernel(name: str) -> None:
    """Raise `UsageError` for a name that no kernel has."""
    known = kernels()
    if name not in known:
        raise UsageError(
            f"there is no kernel {shown(name)}",
            f"known are: {', '.join(sorted(known))}; or write a path: ./bzImage",
        )


def files() -> list[Path]:
    """Return every file of a recipe or a kernel, in the order that decides which one wins."""
    recipes = [
        file
        for top in folders()
        for recipe in sorted(top.glob("*/recipe.yaml"))
        for file in sorted(recipe.parent.rglob("*"))
        if file.is_file()
    ]
    return [*recipes, *kernels().values()]
