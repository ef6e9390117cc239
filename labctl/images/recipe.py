"""Recipes and their locks: what an image is made of, read from YAML and checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from labctl.errors import UsageError, nearest
from labctl.images import recipe_paths
from labctl.topology import text
from labctl.topology.tree import MAX_BYTES

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


class LockedPackage(BaseModel):
    """One package, pinned."""

    model_config = _STRICT

    name: str
    version: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(gt=0)
    """Bytes of the .deb."""
    path: str = Field(pattern="^pool/[^:]+[.]deb$")
    """Its path in the archive, whatever the mirror."""


class Lock(BaseModel):
    """Every package of a recipe, pinned."""

    model_config = _STRICT

    archive: Literal["debian"]
    suite: str
    kernel: str
    """The recipe's kernel package that was asked for."""
    kernel_package: str
    """The package that holds the kernel."""
    packages: list[LockedPackage]


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe with all that it extends, and the bytes of its own files."""

    name: str
    folder: Path
    recipe: Recipe
    added: Mapping[str, tuple[int, bytes]]
    """Mode and bytes of each added file, by its place in the image."""
    sources: frozenset[Path]
    """The added files where they lie."""

    @property
    def lock_file(self) -> Path:
        """Where the recipe's lock lies, or will lie."""
        return self.folder / "lock.yaml"

    def lock(self) -> Lock:
        """Read the lock and check that it fits the recipe.

        Raises `UsageError` when it is missing, unreadable, or made for other packages.
        """
        hint = f"run: labctl image lock {self.name}"
        if not self.lock_file.is_file():
            raise UsageError(f"the image {self.name} has no lock ({self.lock_file})", hint)
        try:
            lock = Lock.model_validate(_read_yaml(self.lock_file))
        except ValidationError as error:
            raise UsageError(f"{self.lock_file}: {_first(error)}", hint) from None
        wanted = (self.recipe.suite, self.recipe.kernel)
        if (lock.suite, lock.kernel) != wanted:
            raise UsageError(
                f"{self.lock_file} is for {lock.kernel} of {lock.suite}, "
                f"the recipe wants {wanted[1]} of {wanted[0]}",
                hint,
            )
        locked = {package.name for package in lock.packages}
        for name in (lock.kernel_package, *self.recipe.wanted):
            if name not in locked:
                raise UsageError(f"{self.lock_file} lacks the package {name}", hint)
        return lock

    def digest(self, lock: Lock) -> str:
        """Return the SHA-256 over all that decides what the image's bytes are, in hex."""
        content = {
            "builder": BUILDER,
            # What a recipe does not say is no part of its digest: those from before it keep theirs.
            "recipe": self.recipe.model_dump(
                exclude={"description", "add", *([] if self.recipe.disk else ["disk"])}
            ),
            "lock": lock.model_dump(),
            "added": {
                place: [mode, hashlib.sha256(data).hexdigest()]
                for place, (mode, data) in self.added.items()
            },
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load(name: str) -> LoadedRecipe:
    """Load the recipe `name` and all that it extends.

    Raises `UsageError` when no recipe has that name, or when it is not a recipe.
    """
    folder = _find(name)
    raw, folders = _merged(name, folder, ())
    file = folder / "recipe.yaml"
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise UsageError(f"{file}: {_first(error)}", "docs/images.md lists the fields") from None
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
    return LoadedRecipe(name, folder, recipe, added, frozenset(sources))


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
    own = _read_yaml(file)
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


def _read_yaml(file: Path) -> dict[str, Any]:
    """Read a file by the rules and bounds of topologies: plain values, keys that are text.

    All that YAML can do besides costs errors of many kinds: dates that are none, tags that make
    objects, nesting without end.
    """
    try:
        with file.open("rb") as stream:
            content = text.decode(stream.read(MAX_BYTES + 1))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    except text.NotTextError as error:
        raise UsageError(f"{file}:{error.line}:{error.column}: {error}") from None
    root, problems = text.read(content, str(file))
    if problems or root is None:
        problem = problems[0]
        place = f"{problem.file}:{problem.line}:{problem.column}"
        raise UsageError(f"{place}: {problem.message}", problem.hint)
    plain = root.plain()
    if not isinstance(plain, dict):
        raise UsageError(f"{file} is not a mapping of fields to values")
    return plain


def _first(error: ValidationError) -> str:
    """Return the first thing that is wrong as `where: what`."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}"
