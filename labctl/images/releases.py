"""Kernels of Debian's releases, pinned under names such as `debian-13`.

An image with one of them in place of its own is an image of its own, called `micro@debian-13`: its
programs stay those of the recipe, its modules are that kernel's.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from labctl.errors import UsageError
from labctl.images import locks, recipe_paths
from labctl.images.locks import Lock

FLAVOURS = ("linux-image-cloud-amd64", "linux-image-amd64")
"""The kernel packages of a release that are pinned: those that recipes name."""
_AT = "@"


class Release(BaseModel):
    """The kernels of one release."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: str
    """By its code name, such as `trixie`."""
    memory: int = Field(0, ge=0)
    """MiB that an image needs more with one of these than with its own; found by trying."""
    kernels: list[Lock]
    """One for each flavour."""

    def of(self, flavour: str) -> Lock:
        """Return the kernel that has the place of a recipe's; raises `UsageError` without one."""
        for one in self.kernels:
            if one.kernel == flavour:
                return one
        known = ", ".join(one.kernel for one in self.kernels)
        raise UsageError(
            f"no kernel {flavour} of {self.suite} is pinned, which the recipe would need",
            f"pinned are: {known}",
        )


def split(image: str) -> tuple[str, str]:
    """Return an image's recipe, and the name of the kernel that it has instead; empty for none."""
    recipe, _, kernel = image.partition(_AT)
    return recipe, kernel


def load(name: str) -> Release:
    """Return the kernels of a release; raises `UsageError` for an unknown name or a wrong file."""
    recipe_paths.check_kernel(name)
    file = recipe_paths.kernels()[name]
    try:
        return Release.model_validate(locks.read_yaml(file))
    except ValidationError as error:
        hint = f"run: labctl image lock {name}"
        raise UsageError(f"{file}: {locks.first(error)}", hint) from None


def lock_file(name: str) -> Path:
    """Return where the lock of a release's kernels lies."""
    return recipe_paths.kernels()[name]
