"""Recipes: what an image is made of, read from YAML and checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from labctl.errors import UsageError, nearest
from labctl.images import locks, recipe_paths, releases
from labctl.images.locks import Lock, LockedPackage

BUILDER = 2
"""Version of the builder, part of every digest: raise it when the same recipe gives other bytes."""

_STRICT = ConfigDict(extra="forbid", frozen=True)


class AddedFile(BaseModel):
    """A file of the recipe's own folder that goes into the image."""

    model_config = _STRICT

    file: str
    """Its path, relative to the folder of the recipe that names it."""
    mode: str = Field("644", pattern="^[0-7]{3,4}$")
    """Its permissions, in octal."""


class Disk(BaseModel):
    """The disk of an image that boots by itself: its packages as they are, and what is set in them.

    No script of a package runs, so what those would do (users, services) is said here.
    """

    model_config = _STRICT

    size: int = Field(ge=64, le=8192)
    """MiB of its one file system."""
    cmdline: str
    """What the boot loader adds to the command line of the kernel, after the root file system."""
    modules: list[str] = []
    """Kernel modules on it; the modules that these need come by themselves."""
    exclude: list[str] = []
    """Patterns of what of the packages stays out."""
    links: dict[str, str] = {}
    """Symbolic links: place to target."""
    text: dict[str, str] = {}
    """Short files, written down in the recipe."""
    folders: dict[str, str] = {}
    """Folders, each with its permissions in octal."""


class Recipe(BaseModel):
    """What an image is made of; a recipe that extends another adds to it or overrides it."""

    model_config = _STRICT

    description: str = ""
    suite: str = Field(pattern="^[a-z][a-z0-9-]*$")
    """Debian's suite by its code name, such as `bookworm`; only its main archive is used."""
    kernel: str
    """Package of the kernel; of a meta package, the kernel that it depends on."""
    hypervisor: str = ""
    """Package of a Xen hypervisor that starts the kernel as its dom0; none by default."""
    memory: int = Field(ge=1)
    """MiB: the least that a guest boots the image with; found by trying."""
    packages: list[str]
    """Packages whose files may be used, libraries among them."""
    files: list[str]
    """Paths and patterns of what goes into the image; needed libraries come by themselves."""
    exclude: list[str] = []
    """Patterns of what stays out although `files` asks for it."""
    modules: list[str] = []
    """Kernel modules; the modules that these need come by themselves."""
    add: dict[str, AddedFile] = {}
    """Files of the recipe's own, by their place in the image."""
    applets: list[str] = []
    """Names under which busybox is called."""
    links: dict[str, str] = {}
    """Symbolic links: place in the image to target."""
    text: dict[str, str] = {}
    """Short files, written down in the recipe."""
    disk: Disk | None = None
    """A disk that boots the kernel and the initramfs by itself; none by default."""

    @property
    def wanted(self) -> list[str]:
        """Every package but the kernel's: those whose files may be used, and the hypervisor's."""
        return [*self.packages, *([self.hypervisor] if self.hypervisor else [])]

    @field_validator("applets", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return value.split() if isinstance(value, str) else value


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe with all that it extends, and the bytes of its own files."""

    name: str
    """With the kernel of a release behind an `@`, where it is to have one: `micro@debian-13`."""
    folder: Path
    recipe: Recipe
    added: Mapping[str, tuple[int, bytes]]
    """Mode and bytes of each added file, by its place in the image."""
    sources: frozenset[Path]
    """The added files where they lie."""
    release: Lock | None = None
    """The kernel of a release, in place of the recipe's own; None for that."""
    more_memory: int = 0
    """MiB that it needs more with that kernel."""

    @property
    def memory(self) -> int:
        """MiB: the least that a guest boots the image with."""
        return self.recipe.memory + self.more_memory

    @property
    def lock_file(self) -> Path:
        """Where the recipe's lock lies, or will lie."""
        return self.folder / "lock.yaml"

    def lock(self) -> Lock:
        """Read the lock and check that it fits the recipe; return it with the kernel it is to have.

        Raises `UsageError` when it is missing, unreadable, or made for other packages.
        """
        lock = self._own_lock()
        return lock.with_kernel(self.release) if self.release else lock

    def _own_lock(self) -> Lock:
        name, _ = releases.split(self.name)
        hint = f"run: labctl image lock {name}"
        if not self.lock_file.is_file():
            raise UsageError(f"the image {name} has no lock ({self.lock_file})", hint)
        try:
            lock = Lock.model_validate(locks.read_yaml(self.lock_file))
        except ValidationError as error:
            raise UsageError(f"{self.lock_file}: {locks.first(error)}", hint) from None
        wanted = (self.recipe.suite, self.recipe.kernel)
        if (lock.suite, lock.kernel) != wanted:
            raise UsageError(
                f"{self.lock_file} is for {lock.kernel} of {lock.suite}, "
                f"the recipe wants {wanted[1]} of {wanted[0]}",
                hint,
            )
        locked = {package.name for package in lock.packages}
        for package in (*lock.of_kernel, *self.recipe.wanted):
            if package not in locked:
                raise UsageError(f"{self.lock_file} lacks the package {package}", hint)
        return lock

    def pinned_by(self, package: LockedPackage) -> str:
        """Return what `labctl image lock` is to be told to pin a package anew."""
        name, release = releases.split(self.name)
        return release if self.release and package in self.release.packages else name

    def digest(self, lock: Lock) -> str:
        """Return the SHA-256 over all that decides what the image's bytes are, in hex."""
        content = {
            "builder": BUILDER,
            # What a recipe does not say is no part of its digest: those from before it keep theirs.
            "recipe": self.recipe.model_dump(
                exclude={"description", "add", *([] if self.recipe.disk else ["disk"])}
            ),
            "lock": lock.content(),
            **({"more_memory": self.more_memory} if self.more_memory else {}),
            "added": {
                place: [mode, hashlib.sha256(data).hexdigest()]
                for place, (mode, data) in self.added.items()
            },
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load(name: str) -> LoadedRecipe:
    """Load the recipe `name` and all that it extends; for `NAME@KERNEL`, with that kernel.

    Raises `UsageError` when no recipe or kernel has that name, or when it is not one.
    """
    own, kernel = releases.split(name)
    folder = _find(own)
    raw, folders = _merged(own, folder, ())
    file = folder / "recipe.yaml"
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise UsageError(
            f"{file}: {locks.first(error)}", "docs/images.md lists the fields"
        ) from None
    added = {}
    sources = set()
    for place, item in recipe.add.items():
        source = folders[place] / item.file
        sources.add(source)
        try:
            added[place] = (int(item.mode, 8), source.read_bytes())
        except (OSError, ValueError) as error:  # ValueError: a zero octet, half of a character
            why = error.strerror if isinstance(error, OSError) else "it is no path"
            raise UsageError(
                f"{file}: cannot read {str(source)!r}, which is to be {place!r}: {why}",
                "a file's path is relative to the folder of its recipe",
            ) from None
    release, more = None, 0
    if kernel:
        found = releases.load(kernel)
        release, more = found.of(recipe.kernel), found.memory
    return LoadedRecipe(name, folder, recipe, added, frozenset(sources), release, more)


def _find(name: str) -> Path:
    for top in recipe_paths.folders():
        with contextlib.suppress(OSError):  # such as a name that is too long for any file
            if name and "/" not in name and (top / name / "recipe.yaml").is_file():
                return top / name
    raise UsageError(f"there is no image {name}", nearest(name, recipe_paths.names()))


def _merged(
    name: str, folder: Path, below: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return a recipe's fields over those it extends, and which folder each added file is from."""
    file = folder / "recipe.yaml"
    if name in below:
        raise UsageError(f"{file} extends itself ({' -> '.join((*below, name))})")
    own = locks.read_yaml(file)
    fields: dict[str, Any] = {}
    sources: dict[str, Path] = {}
    parent = own.pop("extends", None)
    if parent is not None:
        fields, sources = _merged(str(parent), _find(str(parent)), (*below, name))
    for key, value in own.items():
        before = fields.get(key)
        if key == "applets" and isinstance(value, str):
            value = value.split()
        if isinstance(before, list) and isinstance(value, list):
            fields[key] = before + [item for item in value if item not in before]
        elif isinstance(before, dict) and isinstance(value, dict):
            fields[key] = {**before, **value}
        else:
            fields[key] = value
    if isinstance(own.get("add"), dict):
        sources = {**sources, **dict.fromkeys(own["add"], folder)}
    return fields, sources
