"""Recipes of images and their locks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from unittest import mock

from labctl.cli.options import print_error
from labctl.errors import LabctlError
from labctl.images import recipe_paths
from labctl.images.locks import Lock
from labctl.images.recipe import Recipe, load

from ..mutate import Make, as_json, changed, derived
from ..scratch import folder
from ..target import Target, WrongError, printed

BETWEEN = b"\n%%\n"
"""What parts a recipe from its lock."""
WORDS = """
    description suite kernel hypervisor memory packages files exclude modules add applets links text
    extends file mode micro micro-generic mine bookworm debian linux-image-cloud-amd64 busybox
    /bin/sh 644 0755 init ./init ../x /etc/hostname pool/main/b/busybox_1_amd64.deb lock archive
    kernel_package name version sha256 size path 1.35-1
""".split()  # noqa: SIM905 - a list of strings would take a page
MARKS = [": ", "\n", "\n  ", "- ", "{", "}", "[", "]", "&a ", "*a", "!!python/name:os.system ",
         "!!timestamp ", "2001-99-99", "1:1:1", "!!binary ", "!!set ", "!!omap ", "<<: ", '"\\0"',
         '"\\ud800"', "? ", "~", "0b", "0o", "=", "[" * 30, "9" * 30]  # fmt: skip
DIGITS = ["a" * 64, "0123456789abcdef" * 4]
TOKENS = [word.encode() for word in (*WORDS, *MARKS, *DIGITS)]


def check(data: bytes) -> None:
    """Read a recipe and its lock as `image build` does before it builds."""
    recipe, _, lock = data.partition(BETWEEN)
    mine = _home() / "labctl" / "images" / "mine"
    (mine / "recipe.yaml").write_bytes(recipe)
    (mine / "lock.yaml").write_bytes(lock)
    try:
        with mock.patch.dict(os.environ, XDG_CONFIG_HOME=str(_home())):
            loaded = load("mine")
            if len(loaded.digest(loaded.lock())) != 64:
                raise WrongError("a recipe without a digest")
    except LabctlError as error:
        told = error
        printed(lambda: print_error(told), colours=False)
        raise


@cache
def _home() -> Path:
    home = folder() / "config"
    mine = home / "labctl" / "images" / "mine"
    mine.mkdir(parents=True)
    for name in ("init", "ssh"):  # which the shipped recipes add
        (mine / name).write_text("#!/bin/sh\n")
    return home


@cache
def seeds() -> Sequence[bytes]:
    """Every shipped recipe with the beginning of its lock, and what extends one."""
    found = []
    for file in sorted(recipe_paths.folders()[-1].glob("*/recipe.yaml")):
        pins = (file.parent / "lock.yaml").read_bytes()
        found.append(file.read_bytes() + BETWEEN + b"\n".join(pins.split(b"\n")[:12]))
    package = {"name": "p", "version": "1", "sha256": "0" * 64, "size": 1, "path": "pool/p.deb"}
    lock = {"archive": "debian", "suite": "sid", "kernel": "p", "kernel_package": "p"}
    recipe = {"suite": "sid", "kernel": "p", "memory": 1, "packages": ["p"], "files": ["/bin/sh"]}
    whole = as_json({**recipe, "add": {"/init": {"file": "init", "mode": "755"}}})
    found.insert(0, whole + BETWEEN + as_json({**lock, "packages": [package]}))
    found.append(b"extends: micro\nmemory: 200\nadd: {/init: {file: init, mode: '755'}}\n")
    return tuple(found)


@cache
def _derived() -> tuple[Make, Make]:
    words = [*WORDS, *DIGITS]
    recipe, lock = (one.model_json_schema() for one in (Recipe, Lock))
    return derived(recipe, words), derived(lock, words)


def make(rng: Random) -> bytes:
    """Make one of the models' schemas, of tokens, or of a shipped one with parts replaced."""
    kind = rng.random()
    if kind < 0.5:
        return BETWEEN.join(as_json(one(rng)) for one in _derived())
    if kind < 0.6:
        return b"".join(rng.choices(TOKENS, k=rng.randrange(40)))
    return changed(rng, rng.choice(seeds()), TOKENS)


TARGET = Target(
    "recipes",
    "recipes of images, and locks",
    10**5,
    ("labctl.images", "labctl.topology.text", "labctl.topology.tree"),
    seeds,
    make,
    check,
    words=[*WORDS, *MARKS],
    longest=8192,
)
