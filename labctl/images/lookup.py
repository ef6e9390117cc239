"""Which image a name stands for, told without reading recipes where they were read before.

Reading them takes YAML and pydantic, a fifth of the time until `up` makes its first link. The
digest that came of it is kept under the bytes of all files beside recipes, and the code.
"""

from __future__ import annotations

from pathlib import Path

from labctl import topology
from labctl.events import Emit, silent
from labctl.images import cache, recipe_paths
from labctl.images.cache import Image
from labctl.sandbox import user_cache

KIND = "recipes"
_READERS = [Path(topology.__file__).with_name(name) for name in ("text.py", "tree.py")]
"""Code that reads recipes, besides what is in this folder."""


def get(name: str, *, emit: Emit = silent) -> Image:
    """Return the image `name` from the cache, building it first where it is not there.

    Raises `UsageError` for an unknown name or a wrong recipe, `LabctlError` when a package cannot
    be had.
    """
    files = recipe_paths.files()
    key = _key(name, files)
    if found := _found(name, key):
        return found
    from labctl.images import assemble, recipe

    loaded = recipe.load(name)
    digest = loaded.digest(loaded.lock())
    # Of a recipe that adds files from elsewhere the key does not know all.
    if key and loaded.sources <= set(files) and _key(name, recipe_paths.files()) == key:
        user_cache.keep(KIND, key, digest, str)
    return cache.find(name, digest) or assemble.build(name, emit=emit)


def built(name: str) -> Image | None:
    """Return the image `name` if it is in the cache and its recipe was read before."""
    return _found(name, _key(name, recipe_paths.files()))


def _found(name: str, key: str) -> Image | None:
    known: str | None = user_cache.load(KIND, key, str) if key else None
    return cache.find(name, known) if known else None


def _key(name: str, files: list[Path]) -> str:
    """Return what a name's digest is kept under; empty where a file cannot be read."""
    parts: list[bytes | str] = [name]
    try:
        for file in (*files, *_READERS):
            parts += [str(file), file.read_bytes()]
        return user_cache.key(Path(__file__).parent, parts)
    except OSError:
        return ""
