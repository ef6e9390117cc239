"""A whole lab is saved under a name as it runs, and brought up again as it was."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl import backends
from labctl.backends.state import State
from labctl.errors import LabctlError, UsageError
from labctl.events import Emit, Event, silent
from labctl.guests import saved, saved_lab, secret_texts
from labctl.guests.spec import BOOT, Guest
from labctl.lab import (
    link_changes,
    machines,
    memory,
    naming,
    preflight,
    published,
    saves,
    state,
)
from labctl.lab.machines import CLONED
from labctl.lab.ports import ports
from labctl.lab.power import changing
from labctl.lab.saves import Save, SavedGuest
from labctl.network import links
from labctl.topology.impairment import Impairment
from labctl.topology.model import Node, Topology

if TYPE_CHECKING:
    from labctl.lab.lab import Lab
    from labctl.sandbox.client import Agent

ROUTERS = "routers"
"""The folder of a lab where it is noted what forwards in nodes."""


def save(lab: Lab, name: str) -> Save:
    """Save a lab under a name; it goes on afterwards.

    Guests are stopped meanwhile, all together. Raises `UsageError` for a name that is taken, or a
    lab that cannot be saved; `GuestError` for a guest that does not run, or that QEMU cannot save.
    """
    if not lab._backend.ends_with_sandbox:
        raise UsageError(
            f"lab {lab.name} is on a system's libvirt, and cannot be saved by labctl",
            "leave --connect away: labs of your own can be saved",
        )
    saves.check_free(name)
    with changing(lab), saves.making(name) as folder:
        making = lab._making()
        running: list[saved_lab.Running] = []
        guests: dict[str, SavedGuest] = {}
        copied: dict[Path, Path] = {}
        for node in _savable(lab.topology):
            way = machines.starter(making, node)
            built = machines.build(making, node)
            written = {file: folder / file.name for file in way.written(built)}
            if node.name in lab._state.off:
                copied |= written
                continue
            lab.check_running(node.name, closely=True)
            cloned = lab.starts.get(node.name) == CLONED
            guest = way.to_go_on(built, cloned=cloned)
            if guest is None:
                continue
            file = folder / f"{node.name}.state"
            shape = lab.sandbox.agent().call(saved_lab.shape, guest, lab.accel)
            guests[node.name] = SavedGuest(cloned, shape, file.name)
            running.append(
                saved_lab.Running(
                    node.name, guest.domain, node.memory, file,
                    {str(source): to for source, to in written.items()},
                )
            )  # fmt: skip
            copied |= _forwarding(lab, node, folder)
        topology = _as_it_is(lab)
        notes = _notes(lab, guests)
        digests = _saved(lab, running)
        for source, to in copied.items():
            digests[to.name] = lab.sandbox.call(saved_lab.copy, source, to)
        for one in running:
            digests[one.state.name] = _digest(one.state)
        known = dataclasses.replace(lab._state, topology=topology)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        made = Save(name, when, known, guests, digests, notes)
        saves.keep(folder, made)
    return made


def _saved(lab: Lab, running: list[saved_lab.Running]) -> dict[str, str]:
    """Save guests that run; they go on, also where this is interrupted."""
    agent = lab.sandbox.agent()
    try:
        digests: dict[str, str] = agent.call_with_events(
            saved_lab.save, lab.hypervisor, running, emit=lab._emit
        )
    except KeyboardInterrupt:
        agent.call(saved_lab.give_up)
        raise
    return digests


def _savable(topology: Topology) -> list[Node]:
    """Return the nodes whose kinds can be stopped by themselves, and so saved."""
    return [node for node in topology.outer_machines() if not node.guest_kind.not_stopped]


def _forwarding(lab: Lab, node: Node, folder: Path) -> dict[Path, Path]:
    """Return the notes on what forwards in a node, each with where it is copied to."""
    files = (lab.directory / ROUTERS).glob(f"{node.name}.*") if node.forwards else ()
    return {file: folder / f"{ROUTERS}.{file.name}" for file in files}


def _digest(file: Path) -> str:
    """Return the digest of a file, as copies have it."""
    source = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return saved.digest(source)
    finally:
        os.close(source)


def _as_it_is(lab: Lab) -> Topology:
    """Return the topology with the impairments that links have now."""
    found: dict[str, Impairment] = {
        one.port.name: one.impairment for one in link_changes.states(lab)
    }
    topology = lab.topology

    def worse(owner: Any) -> Any:
        interfaces = tuple(
            dataclasses.replace(one, impairment=found[f"{owner.name}:{one.name}"])
            for one in owner.interfaces
        )
        return dataclasses.replace(owner, interfaces=interfaces)

    return dataclasses.replace(
        topology,
        nodes={name: worse(node) for name, node in topology.nodes.items()},
        routers={name: worse(router) for name, router in topology.routers.items()},
    )


def _notes(lab: Lab, guests: Mapping[str, SavedGuest]) -> list[str]:
    """Return what is not saved, a line each."""
    found = []
    anew = [
        node.name
        for node in lab.topology.nodes.values()
        if node.name not in guests and node.name not in lab._state.off
    ]
    if anew:
        found.append(f"{', '.join(anew)}: not saved; what runs there starts anew when restored")
    if ports_there := published.listed(lab.directory, lab.sandbox):
        words = ", ".join(one.listens for one in ports_there)
        found.append(f"{words}: published ports are not saved; publish them again")
    return found


# --- restoring ------------------------------------------------------------------------------


def restore(
    name: str,
    *,
    lab_name: str | None = None,
    emit: Emit = silent,
    keep: bool = False,
    agent: Agent | None = None,
) -> Lab:
    """Bring a saved lab up as it was: all of it, or nothing is left.

    It is called as it was, or `lab_name`. Raises `UsageError` where there is none of that name, or
    a lab of that name is up; `LabctlError` for what is damaged, foreign, or was saved with another
    QEMU; and as `Lab.up` does.
    """
    from labctl.lab.lab import Lab  # which knows nothing of this

    was = saves.load(name)
    begun = time.monotonic()
    lab_name = was.state.name if lab_name is None else lab_name
    naming.check(lab_name)
    folder = state.directory(lab_name)
    topology, backend = was.state.topology, backends.of("")
    preflight.check_sockets(topology, folder)
    preflight.check_host(backend, guests=bool(backend.booted(topology)))
    preflight.check_kinds(topology)
    preflight.check_disks(topology)
    _check_images(was)
    texts = secret_texts.read(topology)
    if was.state.accel == "kvm":
        booted = backend.booted(topology)
        found = {one.name: one for one in was.state.images.values()}
        preflight.choose_accel("require", booted, found, emit)
    memory.check(topology, memory.needed(topology))
    _check_files(was)
    with state.creating(folder):
        sandbox = backend.create_sandbox(folder, agent)
    lab = None
    try:
        known = dataclasses.replace(
            was.state,
            name=lab_name,
            complete=False,
            changing=False,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        secret_texts.keep(folder, topology, texts)
        lab = Lab(sandbox, known, emit)
        lab._build(was.guests, partial(_go_on, lab, was))
        _take_links_down(lab)
        lab._complete(keep=keep)
    except BaseException:
        if lab:
            lab.down()
        else:
            sandbox.end()
        raise
    lab.timings["up"] = time.monotonic() - begun
    return lab


def _check_images(was: Save) -> None:
    """Raise `UsageError` where what nodes boot, or their disks are over, has gone."""
    known: State = was.state
    for node, image in known.images.items():
        files = [image.kernel, image.initramfs, *([image.disk] if image.disk else [])]
        if any(not file.exists() for file in files if file.name):
            raise UsageError(
                f"the image {image.name} that {node} has is no longer in the cache",
                f"make it again: labctl image build {image.name}",
            )
    for node, disk in known.disks.items():
        if not disk.path.exists():
            raise UsageError(
                f"the disk image {disk.name} that {node} has is no longer in the cache",
                "bring the lab up from its topology file, which fetches it",
            )


def _check_files(was: Save) -> None:
    """Raise `LabctlError` unless every file is what was saved."""
    for file, digest in was.digests.items():
        if _digest(was.folder / file) != digest:
            raise saves.damaged(was.name, f"{file} is not what was saved")


def _go_on(lab: Lab, was: Save) -> None:
    """Start the guests of a saved lab, in a lab whose networks are there."""
    boot = lab.directory / BOOT
    boot.mkdir(mode=0o700, exist_ok=True)
    notes = lab.directory / ROUTERS
    states = {one.state for one in was.guests.values()}
    for file in was.digests.keys() - states:
        to = boot / file
        if file.startswith(f"{ROUTERS}."):
            notes.mkdir(mode=0o700, exist_ok=True)
            to = notes / file.removeprefix(f"{ROUTERS}.")
        if lab.sandbox.call(saved_lab.copy, was.folder / file, to) != was.digests[file]:
            raise saves.damaged(was.name, f"{file} is not what was saved")
    making = lab._making()
    guests: list[Guest] = []
    for name, one in was.guests.items():
        node = lab.topology.nodes[name]
        guest = machines.starter(making, node).to_go_on(
            machines.build(making, node), cloned=one.cloned
        )
        if guest is None:
            raise saves.damaged(was.name, f"{name} cannot go on: its kind is another now")
        if lab.sandbox.agent().call(saved_lab.shape, guest, lab.accel) != one.shape:
            raise LabctlError(
                f"{name} was saved with another QEMU, libvirt or labctl, and cannot go on here",
                "bring the lab up from its topology file, and save it again",
            )
        guests.append(guest)
    lab.sandbox.agent().call_with_events(
        saved_lab.start,
        lab.hypervisor,
        guests,
        {name: was.folder / one.state for name, one in was.guests.items()},
        lab.accel,
        lab.name,
        lab.directory,
        emit=lab._emit,
    )


def _take_links_down(lab: Lab) -> None:
    """Take the carrier from links that had none."""
    for one in ports(lab.topology):
        if one.name not in lab._state.links_down:
            continue
        if not one.by_qemu:
            lab.place(one.host).call(links.set_up, one.outer, False)
        elif one.owner not in lab._state.off:
            from labctl.lab import qemu  # here: most labs have none

            node = lab.topology.nodes[one.owner]
            qemu.set_carrier(lab._making(), node, one.interface.mac, False)
        lab._emit(Event("link", one.name, "done", "down, as it was"))
