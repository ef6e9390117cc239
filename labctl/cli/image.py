"""Verbs of images: build, pull, list, rm, lock."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from labctl import images
from labctl.cli.display import display
from labctl.cli.options import json_option, print_json, print_table
from labctl.errors import UsageError
from labctl.images import disk_cache, disk_remove, templates
from labctl.lab import disk_users


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def image(context: click.Context, as_json: bool) -> None:
    """Build, pull, list, remove and lock the images of guests.

    Without a verb they are listed.
    """
    if context.invoked_subcommand is None:
        _list(as_json=as_json)


@image.command()
@click.argument("name", default="micro")
@click.option("--force", is_flag=True, help="Build although the cache has it.")
def build(name: str, force: bool) -> None:
    """Build image NAME (default: micro), unless the cache has it."""
    with display() as show:
        built = images.build(name, force=force, emit=show)
    click.echo(f"{built.name} {built.digest[:12]}: {built.kernel.parent}")


@image.command()
@click.argument("topology", type=click.Path(path_type=Path))
def pull(topology: Path) -> None:
    """Download the disk images of a TOPOLOGY file, as `labctl up` does it by itself."""
    from labctl.images import disk_lock  # which reads topologies

    with display() as show:
        pulled = disk_lock.pull(topology, emit=show)
    for one in pulled:
        click.echo(f"{one.name} {one.facts.sha256[:12]}: {one.path}")


@image.command("list")
@json_option
def list_images(as_json: bool) -> None:
    """List recipes, the images that are built, their templates, and the disk images fetched."""
    _list(as_json=as_json)


def _list(*, as_json: bool) -> None:
    found = images.list_images()
    saved = templates.listed()
    disks, users = disk_cache.listed(), disk_users.find()
    if as_json:
        told = [
            dataclasses.asdict(one)
            | {"templates": [_template(each) for each in saved if each.image == one.name]}
            for one in found
        ]
        told += [
            {"name": one.name, "digest": one.facts.sha256}
            | {"disk": dataclasses.asdict(one), "used_by": users.get(one.facts.sha256, [])}
            for one in disks
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
    if disks:
        click.echo()
        print_table(
            ["disk image", "digest", "format", "size", "used by", "source"],
            [
                [
                    one.name,
                    one.facts.sha256[:12],
                    one.facts.format,
                    f"{one.size / 1e6:.1f} MB",
                    ", ".join(users.get(one.facts.sha256, [])) or "no lab",
                    one.facts.source,
                ]
                for one in disks
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
    help="Remove all images, templates, fetched packages and disk images, and unpacked kernels.",
)
def remove(name: str | None, everything: bool) -> None:
    """Remove image NAME and its templates from the cache, or all. They can be made again.

    A disk image is named as `list` names it, by its digest or the beginning of that, or by its
    source. One that a lab uses stays.
    """
    if bool(name) == everything:
        raise click.UsageError("name an image, or say --all")
    disks = disk_remove.chosen(name)
    if not disks or everything:
        for gone in [*images.remove(name), *templates.remove(name)]:
            click.echo(f"removed {gone}")
    for gone in disk_remove.remove(disks, disk_users.find(), rest=everything):
        click.echo(f"removed {gone}")


@image.command()
@click.argument("name", default="micro")
@click.option("--renew", is_flag=True, help="Of a topology: pin anew what is pinned already, too.")
def lock(name: str, renew: bool) -> None:
    """Write the lock of image NAME (default: micro) anew, or that of a topology file.

    That of an image then holds what the Debian archive has now. That of a topology (NAME ends in
    .yaml, or holds a /) holds the digests of the disk images that it names by a URL alone.
    """
    from labctl.images import disk_lock

    if disk_lock.is_topology(name):
        with display() as show:
            path, pinned = disk_lock.lock(Path(name), renew=renew, emit=show)
        for one in pinned:
            click.echo(f"{'pinned' if one.fresh else 'was pinned'}: {one.sha256} {one.url}")
    elif renew:
        raise UsageError("--renew is for topologies", "the lock of an image is always written anew")
    else:
        with display() as show:
            path = images.lock(name, emit=show)
    click.echo(f"locked: {path}")


COMMANDS = (image,)
