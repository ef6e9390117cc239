"""The verb `version`: labctl's own version, and what it found."""

from __future__ import annotations

import click

from labctl.cli.options import json_option, print_json


@click.command("version")
@json_option
def version(as_json: bool) -> None:
    """Print the version of labctl, and what it found on this host.

    That is QEMU, libvirt, the kernel, the accelerator and the images. Nothing is tried; `labctl
    doctor` does that. For a bug report, paste all of it.
    """
    from labctl.lab import found  # here: the list of commands does without

    told = found.find()
    if as_json:
        print_json(told.to_json())
        return
    lines = {
        "labctl": f"{told.labctl} ({told.place})",
        "Python": told.python,
        "host": told.distribution or "unknown",
        "kernel": told.kernel,
        "QEMU": told.qemu or "not found; run: labctl doctor",
        "libvirt": told.libvirt or "not found; run: labctl doctor",
        "accelerator": told.accelerator,
        "images": ", ".join(name for name, built in told.images.items() if built) or "none built",
    }
    for name, text in lines.items():
        click.echo(f"{name + ':':13}{text}")


COMMANDS = (version,)
