"""Verbs of images: build, list, rm, lock."""

from __future__ import annotations

import dataclasses

import click

from labctl import images
from labctl.cli.display import display
from labctl.cli.options import json_option, print_json, print_table


@click.group()
def image() -> None:
    """Build, list, remove and lock the images that guests boot."""


@image.command()
@click.argument("name", default="micro")
@click.option("--force", is_flag=True, help="Build although the cache has it.")
def build(name: str, force: bool) -> None:
    """Build image NAME (default: micro), unless the cache has it."""
    with display() as show:
        built = images.build(name, force=force, emit=show)
    click.echo(f"{built.name} {built.digest[:12]}: {built.kernel.parent}")


@image.command("list")
@json_option
def list_images(as_json: bool) -> None:
    """List the recipes for images, and the images that are built."""
    found = images.list_images()
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
        return
    rows = [
        [
            one.name,
            one.digest[:12],
            "built" if one.image else "not built",
            f"{one.image.size / 1e6:.1f} MB" if one.image else "",
            one.problem or one.description,
        ]
        for one in found
    ]
    print_table(["image", "digest", "state", "size", "what it is"], rows)


@image.command("rm")
@click.argument("name", required=False)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Remove all images, fetched packages and unpacked kernels.",
)
def remove(name: str | None, everything: bool) -> None:
    """Remove image NAME from the cache, or all. It can be built again."""
    if bool(name) == everything:
        raise click.UsageError("name an image, or say --all")
    for gone in images.remove(name):
        click.echo(f"removed {gone}")


@image.command()
@click.argument("name", default="micro")
def lock(name: str) -> None:
    """Write the lock of image NAME (default: micro) anew.

    It then holds what the Debian archive has now.
    """
    with display() as show:
        path = images.lock(name, emit=show)
    click.echo(f"locked: {path}")


COMMANDS = (image,)
