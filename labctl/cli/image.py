"""Verbs of images: build, list, rm, lock."""

from __future__ import annotations

import dataclasses

import click

from labctl import images
from labctl.cli.display import display
from labctl.cli.options import json_option, print_json, print_table
from labctl.images import templates


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
    """List the recipes for images, the images that are built, and their templates."""
    found = images.list_images()
    saved = templates.listed()
    if as_json:
        told = [
            dataclasses.asdict(one)
            | {"templates": [_template(each) for each in saved if each.image == one.name]}
            for one in found
        ]
        print_json(told)
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
    if saved:
        click.echo()
        print_table(
            ["template", "of image", "memory", "size", "what it is"],
            [
                [
                    one.key[:12],
                    one.image if one.image_digest else f"{one.image}, other files",
                    f"{one.mebibytes} MiB",
                    f"{one.size / 1e6:.1f} MB" if not one.obstacle else "",
                    one.obstacle or "a saved state, from which guests start",
                ]
                for one in saved
            ],
        )


def _template(one: templates.Template) -> dict[str, object]:
    return dataclasses.asdict(one) | {"size": one.size}


@image.command("rm")
@click.argument("name", required=False)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Remove all images, templates, fetched packages and unpacked kernels.",
)
def remove(name: str | None, everything: bool) -> None:
    """Remove image NAME and its templates from the cache, or all. They can be made again."""
    if bool(name) == everything:
        raise click.UsageError("name an image, or say --all")
    for gone in [*images.remove(name), *templates.remove(name)]:
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
