"""Which guests of a lab can be clones, and their templates: found in the cache, or made first."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from labctl.errors import LabctlError
from labctl.events import Emit, Event
from labctl.guests import driver, template
from labctl.guests.spec import Accel, Guest, Nic, Saved
from labctl.images import Image, templates
from labctl.images.templates import Template
from labctl.lab import boot
from labctl.lab.machines import Making
from labctl.sandbox import paths, scratch
from labctl.sandbox.deadline import Deadline
from labctl.topology.model import Node

COLD = "LABCTL_COLD"
LINE = "template\n"
"""The configuration of a guest that is to be a template: that it waits."""
MOST_NICS = 24
MAKE_SECONDS = 400.0


def cold(wish: bool) -> bool:
    """Whether the user wants every guest to boot."""
    return wish or os.environ.get(COLD, "") not in ("", "0")


def may_be_clone(node: Node) -> bool:
    """Whether a node may start from a template: one with a kernel of the user's own if it says so.

    One with so many NICs that they do not fit on one PCI bus boots always.
    """
    fits = node.guest_kind.saveable and node.is_configured
    if not fits or len(node.interfaces) > MOST_NICS:
        return False
    own = bool(node.kernel or node.initramfs)
    return not own if node.clone is None else node.clone


def find(making: Making, guests: Iterable[Guest]) -> dict[str, Template]:
    """Return the templates of guests that can be clones, by name; those missing are made first.

    Why one has none is told by an event. Their QEMU is that of the lab's sandbox.
    """
    chosen: dict[str, Template] = {}
    known: dict[str, Template | None] = {}
    for guest in guests:
        image = making.known.images[guest.name]
        waiting = _waiting(guest)
        alike = repr(waiting)
        if alike not in known:
            try:
                known[alike] = _of(making, waiting, image)
            except (LabctlError, OSError) as error:
                known[alike] = None
                why = error.message if isinstance(error, LabctlError) else error.strerror
                making.emit(Event("template", image.name, "failed", f"its guests boot: {why}"))
        if one := known[alike]:
            chosen[guest.name] = one
    return chosen


def _waiting(guest: Guest) -> Guest:
    """Return the guest that others like this one go on from: of no lab, with nothing of its own."""
    nowhere = paths.runtime() / scratch.PREFIX
    nics = tuple(Nic(str(n), "", "", nic.model, {}) for n, nic in enumerate(guest.nics))
    return replace(
        guest, name="template", domain="template", nics=nics, console=nowhere, log=nowhere, lines=""
    )


def saved(one: Template) -> Saved:
    """Return where the files of a template are."""
    memory, state = one.folder / templates.MEMORY, one.folder / templates.STATE
    return Saved(memory, one.memory_digest, state, one.state_digest)


def _of(making: Making, waiting: Guest, image: Image) -> Template | None:
    files = waiting.kernel, waiting.initramfs
    own = files != (image.kernel, image.initramfs)
    content = [templates.digest(file) for file in files] if own else [image.digest]
    accel = making.known.accel
    shape = making.sandbox.agent().call(template.shape, waiting, accel)
    key = templates.key([*content, *shape])
    one = templates.find(key)
    if one is None:
        wanted = Template(key, image.name, "" if own else image.digest, waiting.memory)
        one = _made(waiting, accel, wanted, making.emit)
    if one.obstacle:
        making.emit(Event("template", image.name, "failed", f"its guests boot: {one.obstacle}"))
        return None
    return one


def _made(guest: Guest, accel: Accel, wanted: Template, emit: Emit) -> Template:
    """Make a template in a sandbox of its own; whoever made the same meanwhile has done it."""
    emit(Event("template", wanted.image, "start", f"made once, for guests of {guest.memory} MiB"))
    try:
        deadline = Deadline(MAKE_SECONDS, "waiting for another template to be made")
        with templates.maker(deadline) as folder:
            if (theirs := templates.find(wanted.key)) is not None:
                one = theirs
            else:
                with scratch.sandbox() as sandbox:
                    root = sandbox.directory / "embed"
                    root.mkdir(mode=0o711)
                    initramfs = boot.Files(sandbox.directory).initramfs(
                        guest.name, guest.initramfs, LINE
                    )
                    hypervisor = driver.Hypervisor(root, capabilities=paths.cache() / "libvirt")
                    made = sandbox.call(
                        template.make,
                        hypervisor,
                        replace(guest, initramfs=initramfs, console=root / "c", log=root / "c.log"),
                        accel,
                        folder,
                    )
                if made.saved:
                    one = replace(
                        wanted,
                        memory_digest=made.saved.memory_digest,
                        state_digest=made.saved.state_digest,
                    )
                else:
                    one = replace(wanted, obstacle=made.obstacle)
                templates.keep(folder, one)
    except BaseException as error:
        emit(Event("template", wanted.image, "failed", str(error)))
        raise
    emit(Event("template", wanted.image, "done"))
    return one


def forget(one: Template) -> None:
    """Let a template that could not be cloned be made anew by the next start."""
    templates.forget(one.key)
