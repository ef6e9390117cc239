"""Nodes of a running lab that are stopped and started again, while the rest of it goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from labctl.errors import LabctlError, UsageError
from labctl.events import Event
from labctl.guests import driver, ssh
from labctl.lab import guest_state, machines
from labctl.lab import state as lab_state
from labctl.sandbox import lock
from labctl.sandbox.deadline import Deadline
from labctl.topology import model

if TYPE_CHECKING:
    from labctl.lab.lab import Lab

LOCK = "changes.lock"
LOCK_SECONDS = 300.0
ORDERLY_SECONDS = 60.0
"""Seconds that a guest with a disk has to shut down by itself, unless told otherwise."""

Built = list[tuple[model.Node, Any]]
"""Nodes, with what their starters are to start."""


@contextlib.contextmanager
def changing(lab: Lab) -> Iterator[None]:
    """Be the only one that changes a lab, and know it as the last one left it.

    Raises `DeadlineError`, which says who changes it, where that takes too long.
    """
    deadline = Deadline(LOCK_SECONDS, f"waiting for another change of lab {lab.name}")
    with lock.held(lab.directory / LOCK, deadline):
        lab._know(lab_state.load(lab.directory))
        if lab._state.changing:
            raise LabctlError(
                f"lab {lab.name} is half of one topology and half of another: a change broke off",
                f"take it down, and bring it up again: labctl down {lab.name}",
            )
        yield


def stop(lab: Lab, names: Sequence[str], *, seconds: float = ORDERLY_SECONDS) -> list[str]:
    """Stop nodes; return those that ran until now.

    What has a disk has so many `seconds` to shut down, and is ended then, which an event tells;
    whatever else would be lost is in memory. Raises `UsageError` for a node that cannot be stopped
    by itself.
    """
    with changing(lab):
        _check(lab, names)
        running = [name for name in names if name not in lab._state.off]
        for node, built in build(lab, running):
            end(lab, node, built, seconds)
            lab._remember(off=[*lab._state.off, node.name])
    return running


def start(lab: Lab, names: Sequence[str]) -> list[str]:
    """Start nodes that do not run, for whatever reason, until each is ready; return which.

    What a disk held is there again; what is paused goes on. Raises `UsageError` for a node that
    cannot be started by itself, and as `Lab.up` does for one that does not get ready; it is off
    again then.
    """
    with changing(lab):
        _check(lab, names)
        off = [name for name in names if not _runs(lab, name)]
        paused = [name for name in off if state(lab, name) == guest_state.PAUSED]
        for name in paused:
            domain = lab._making().domain(lab.topology.nodes[name])
            lab.sandbox.call(driver.resume, lab.hypervisor, domain)
        start_built(lab, build(lab, [name for name in off if name not in paused]))
    return off


def restart(lab: Lab, names: Sequence[str], *, seconds: float = ORDERLY_SECONDS) -> None:
    """Stop nodes as `stop` does, those that run, and start them all again."""
    with changing(lab):
        _check(lab, names)
        built = build(lab, names)
        for node, made in built:
            if _runs(lab, node.name):
                end(lab, node, made, seconds)
        start_built(lab, built)


def state(lab: Lab, node: str) -> str:
    """Return how a node is, as `labctl status` tells."""
    return machines.condition_of(lab.sandbox, lab._state, node).state


def restart_with(lab: Lab, names: Sequence[str], device: Mapping[str, bool]) -> None:
    """Start nodes afresh with other virtio device features (by libvirt's names).

    They are decided when the device is made, so there is no changing them in a running guest.
    Raises `UsageError` for a node whose kind has none that could change.
    """
    with changing(lab):
        topology = lab.topology
        for name in names:
            kind = lab.node(name).model.guest_kind
            topology = topology.with_device_offload(name, device)
            if kind.not_restarted:
                raise UsageError(
                    f"{name} is a {kind.title}: {kind.not_restarted}",
                    "give its interfaces these device features in the topology",
                )
        lab._remember(topology=topology)
        built = build(lab, names)
        for node, made in built:
            end(lab, node, made, 0)
            machines.starter(lab._making(), node).forget(made)
        start_built(lab, built)


def _runs(lab: Lab, node: str) -> bool:
    return machines.condition_of(lab.sandbox, lab._state, node).runs


def _check(lab: Lab, names: Sequence[str]) -> None:
    """Raise `UsageError` where one of them is no node that can be stopped and started."""
    for name in names:
        kind = lab.node(name).model.guest_kind
        if kind.not_stopped:
            raise UsageError(
                f"{name} is a {kind.title}: {kind.not_stopped}",
                f"take the lab down, and bring it up again: labctl down {lab.name}",
            )


def build(lab: Lab, names: Sequence[str]) -> Built:
    """Return nodes with what they are made of."""
    making = lab._making()
    nodes = [lab.topology.nodes[name] for name in dict.fromkeys(names)]
    return [(node, machines.build(making, node)) for node in nodes]


def end(lab: Lab, node: model.Node, built: Any, seconds: float) -> None:
    """End a node, which has so many seconds to shut down where it has a disk."""
    _forget_connection(lab, node)
    starter = machines.starter(lab._making(), node)
    lab._emit(Event("stop", node.name, "start"))
    orderly = starter.shut_down(built, seconds) if seconds else False
    starter.stop(built)
    cut = node.guest_kind.boots_disk and seconds and not orderly
    detail = f"it did not shut down in {seconds:g} s, and was ended" if cut else ""
    lab._emit(Event("stop", node.name, "done", detail))


def start_built(lab: Lab, built: Built, *, give: bool = True) -> None:
    """Start nodes; one that is not ready is off, also where this process is killed meanwhile."""
    making = lab._making()
    names = [node.name for node, _ in built]
    others = [name for name in lab._state.off if name not in names]
    lab._remember(off=[*others, *names])
    lab._know(replace(lab._state, off=others))  # of this process they are wanted on
    for node, made in built:  # what a start that was killed has left
        machines.starter(making, node).stop(made)
    try:
        lab._start_nodes(built)
        if give:
            lab._give(names)
    except BaseException:
        for node, made in built:
            machines.starter(making, node).stop(made)
        raise
    down = [one for one in lab._state.links_down if one.partition(":")[0] not in names]
    lab._remember(links_down=down)


def _forget_connection(lab: Lab, node: model.Node) -> None:
    """End the shared SSH connection to a guest that is about to go."""
    if not node.guest_kind.is_machine:
        return
    words = [*ssh.command(lab.directory, node.name)[:-1], "-O", "exit", node.name]
    deadline = Deadline(20, f"closing the connection to {node.name}")
    lab.sandbox.agent().run(words, deadline, check=False)
