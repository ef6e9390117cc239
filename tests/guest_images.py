"""Guests that lack what labctl's own images have, for tests: micro with something taken away."""

from __future__ import annotations

import io
from pathlib import Path

import yaml

from labctl import images
from labctl.images.tree import Entry, Tree
from labctl.shipped import folder

PYTHON = ("libexpat1", "libpython3.11-minimal", "python3.11-minimal")
RECIPE = """\
description: micro with the least of Pythons, and without perl, tcpdump and ethtool
extends: micro
packages: [libexpat1, libpython3.11-minimal, python3.11-minimal]
files: [usr/bin/python3.11, usr/lib/python3.11/**]
links: {/usr/bin/python3: python3.11}
text:
  /etc/labctl/early: |
    rm /usr/bin/perl /usr/bin/tcpdump /usr/sbin/ethtool
"""


def lacking(target: Path, *programs: str) -> Path:
    """Write an initramfs of micro that removes some programs as it starts; return the file."""
    return with_early(target, f"rm {' '.join(programs)}\n")


def with_early(target: Path, script: str, more: Tree | None = None) -> Path:
    """Write an initramfs of micro whose init does what `script` says first; return the file."""
    tree = more or Tree()
    tree.add("etc/labctl/early", Entry(0o644, script.encode()))
    added = target.with_suffix(".added")
    tree.write_cpio(added)
    data = images.get("micro").initramfs.read_bytes()
    with target.open("wb") as file:
        file.write(data + bytes(-len(data) % 4) + added.read_bytes())
    added.unlink()
    return target


def write_recipe(config: Path, name: str) -> None:
    """Write a recipe of an image with Python alone, locked as labctl's own images are."""
    place = config / "images" / name
    place.mkdir(parents=True)
    (place / "recipe.yaml").write_text(RECIPE)
    locks = [
        yaml.safe_load((folder("images") / one / "lock.yaml").read_text())
        for one in ("micro", "debian")
    ]
    more = [one for one in locks[1]["packages"] if one["name"] in PYTHON]
    locks[0]["packages"] = sorted([*locks[0]["packages"], *more], key=lambda one: one["name"])
    text = io.StringIO()
    yaml.safe_dump(locks[0], text, sort_keys=False)
    (place / "lock.yaml").write_text(text.getvalue())
