"""What can be told before anything is started: whether all that a topology asks for can be had."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from labctl import images
from labctl.backends.base import Backend
from labctl.errors import HostError, UsageError
from labctl.events import Emit
from labctl.guests import accel, ssh
from labctl.guests.spec import NO_MACHINES, Accel
from labctl.images import Image, modules, overlay
from labctl.kinds import registry
from labctl.kinds.base import KernelPart, Kind, Option
from labctl.kinds.guests.disk import Disk
from labctl.kinds.guests.micro import Micro
from labctl.kinds.nics.base import NicModel
from labctl.lab import kernel_parts, memory, state, templates, xen_guests
from labctl.lab.machines import kind_of
from labctl.lab.ports import ports
from labctl.sandbox import paths, process
from labctl.topology.model import Node, Topology

TUN = Path("/dev/net/tun")
MODULES = Path("/sys/module")
NETEM = KernelPart("qdisc", "netem", "sch_netem")
"""What impairs links."""


def check_host(backend: Backend, *, guests: bool = True) -> None:
    """Raise `HostError` for a program or a device that a lab would miss only when it is half up.

    Where there are no `guests`, what they need is not asked for.
    """
    for program, package in backend.programs.items():
        if not guests and program in backend.guest_programs:
            continue
        if not shutil.which(program, path=process.ENVIRONMENT["PATH"]):
            raise HostError(
                f"{program} is not installed", f"as root, run: apt-get install {package}"
            )
    if not (backend.makes_taps and guests):
        return
    try:
        found = TUN.stat()
    except OSError as error:
        raise HostError(
            f"{TUN} cannot be used: {error.strerror}",
            "as root, run: modprobe tun; in a container: start it with --device /dev/net/tun",
        ) from None
    # Documentation/admin-guide/devices.txt: 10 char, 200 = TAP/TUN network device.
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(10, 200):
        raise HostError(
            f"{TUN} is something else than the TUN device",
            f"as root, run: umount {TUN}, or: rm {TUN}; mknod -m 666 {TUN} c 10 200",
        )


def check(
    topology: Topology, images: Mapping[str, Image], backend: Backend, cold: bool = True
) -> None:
    """Raise `UsageError` for what a topology cannot have, `HostError` where this host has no room.

    `images` holds those of the topology's nodes by name. Unless guests are to start `cold`, it is
    hoped that those that may be clones are: who starts them checks it again for the others.
    """
    for node in backend.booted(topology):
        if node.disk:  # what it needs is not known
            continue
        image = images[node.image]
        if bool(image.disk) != kind_of(node).boots_disk:
            raise UsageError(
                f"{node.name} is of the kind {kind_of(node).name}, and its image {node.image} "
                + ("is a disk" if image.disk else "is no disk"),
                "leave kind: away" if image.disk else f"write image: {Disk.image}, or a mapping",
            )
        if node.memory < image.memory and not node.initramfs:
            raise too_little(node, image.memory)
        xen_guests.check(node, image)
        _check_drivers(node, image)
    machines = backend.machines(topology)
    if not machines:
        return
    hope = backend.clones and not cold
    clones = {node.name for node in machines if hope and templates.may_be_clone(node)}
    memory.check(topology, memory.needed(topology, clones))


def _check_drivers(node: Node, image: Image) -> None:
    """Raise `UsageError` for a NIC that an image is known to have no driver for.

    What a kernel or an initramfs of the user's own brings is theirs to know.
    """
    models = {one.name: registry.nic(one.model) for one in node.interfaces}
    wanted = {name: model for name, model in models.items() if not model.in_every_image}
    if not wanted or node.kernel or node.initramfs:
        return
    there = modules.names(image.initramfs)
    for name, model in wanted.items():
        if there and model.driver not in there:
            raise no_driver(node, name, model)


def too_little(node: Node, needed: int) -> UsageError:
    """Return the error of a node with less memory than its image needs, in MiB."""
    return UsageError(
        f"{node.name} has {node.memory} MiB; its image {node.image} needs {needed} to boot",
        f"write memory: {needed} (or more) in the topology",
    )


def no_driver(node: Node, interface: str, model: NicModel) -> UsageError:
    """Return the error of an interface that a node's image has no driver for."""
    return UsageError(
        f"{node.name}'s {interface} is {model.name}, "
        f"but its image {node.image} has no driver for that ({model.driver})",
        f"write {node.guest_kind.image_with_all_nics}, or model: virtio",
    )


def check_kinds(topology: Topology) -> None:
    """Raise `HostError` for what the kinds of nodes, routers and links need and this host lacks.

    Those in a dom0 are another machine's; what that lacks is told when they are made.
    """
    for lack in lacking(topology):
        raise lack


def lacking(topology: Topology) -> list[HostError]:
    """Return the errors of all that `check_kinds` looks for."""
    users: list[tuple[str, Kind, Mapping[str, Option]]] = [
        (f"the router {router.name}", registry.forwarder(router.kind), router.options)
        for router in topology.outer_routers()
    ]
    users += [
        (f"the network {network.name}", registry.link(segment.kind), segment.options)
        for network in topology.outer_networks()
        for segment in network.segments
    ]
    users += [(f"the node {node.name}", kind_of(node), {}) for node in topology.outer_nodes()]
    wanted = [
        (f"which {who} of the kind {kind.name} needs", need)
        for who, kind, told in users
        for need in kind.needs(told)
    ]
    wanted += [
        (f"which the impairment of {one.name} needs", NETEM)
        for one in ports(topology)
        if one.interface.impairment and not one.host
    ]
    absent = kernel_parts.missing(need for _, need in wanted if isinstance(need, KernelPart))
    found = []
    for for_whom, need in wanted:
        if isinstance(need, KernelPart):
            if need in absent:
                whom = "" if os.geteuid() == 0 else " for an ordinary user"
                what = f"this kernel has no {need.sort} {need.name}{whom}, {for_whom}"
                found.append(HostError(what, f"as root, run: modprobe -a {need.module}"))
        elif not shutil.which(need.program, path=process.ENVIRONMENT["PATH"]):
            what = f"{need.program} is not installed, {for_whom}"
            found.append(HostError(what, f"as root, run: apt-get install {need.package}"))
    return found


def check_disks(topology: Topology) -> None:
    """Raise `UsageError` for a disk image that a node cannot boot, or that nothing pins.

    `HostError` where this host lacks what disk images need.
    """
    for node in topology.nodes.values():
        kind = kind_of(node)
        if node.disk and not kind.boots_disk:
            raise UsageError(
                f"{node.name} is of the kind {kind.name}, which boots no disk image",
                "write image: the name of an image",
            )
        if node.disk and node.disk.url and not node.disk.sha256:
            raise UsageError(
                f"the image of {node.name} has no digest: {node.disk.url}",
                f"run: labctl image lock {topology.source}; or write its sha256"
                if topology.source
                else "say its sha256",
            )
        if node.disk and node.disk.firmware == "uefi":
            from labctl.lab import disk_guests  # not for verbs on running labs

            disk_guests.uefi()
    if any(kind_of(node).boots_disk for node in topology.nodes.values()):
        overlay.check_installed()


def choose_accel(
    policy: accel.Policy, booted: Sequence[Node], found: Mapping[str, Image], emit: Emit
) -> Accel:
    """Decide with an image of ours: a user's own kernel may be the very thing that is broken.

    With the smallest, because the first lab after a boot of the host waits for it. Where nothing is
    `booted` there is nothing to decide; `found` are the images by name, none where all boot disks.
    """
    if not booted:
        return NO_MACHINES
    ours = found.values() or [images.get(Micro.image, emit=emit)]
    image = min(ours, key=lambda one: (one.memory, one.name))
    return accel.choose(
        policy,
        image.kernel,
        image.initramfs,
        image.memory,
        images.CMDLINE,
        paths.cache() / "libvirt",
        emit,
    )


def check_accel(topology: Topology, backend: Backend, chosen: str) -> None:
    """Raise `HostError` for nodes of kinds that cannot run as the guests of this lab will.

    Those on a host of the lab's are not asked: their host is what is run.
    """
    for node in backend.machines(topology):
        kind = kind_of(node)
        if chosen not in kind.accels:
            can = " or ".join(kind.accels)
            raise HostError(
                f"{node.name} is of the kind {kind.name}, which runs by {can}, not by {chosen}",
                "run: labctl doctor; --accel chooses between the two",
            )
        if kind.nests and not (chosen == "kvm" and kvm_nests()):
            raise HostError(
                f"{node.name} is of the kind {kind.name}, which needs a KVM that nests",
                "as root, run: modprobe -r kvm_intel; modprobe kvm_intel nested=1 (or kvm_amd)",
            )


def kvm_nests() -> bool:
    """Tell whether guests of this host's KVM can be hypervisors by hardware themselves.

    That is a parameter of its modules (Documentation/virt/kvm/x86/running-nested-guests.rst).
    """
    for module in ("kvm_intel", "kvm_amd"):
        with contextlib.suppress(OSError):
            return (MODULES / module / "parameters/nested").read_text().strip() in ("Y", "1")
    return False


def check_sockets(topology: Topology, directory: Path) -> None:
    """Raise `UsageError` when the names of nodes are too long for sockets in a lab's directory."""
    node = max(topology.nodes, key=len)
    longest = directory / ssh.SOCKETS / (node + ssh.BEGINNING)
    over = len(os.fsencode(longest)) - state.SOCKET_LIMIT
    if over > 0:
        raise UsageError(
            f"the path {directory} and the name {node} are {over} "
            f"character{'s'[: over != 1]} too long for the socket of an SSH connection",
            "set LABCTL_RUNTIME_DIR to a shorter path, or give the lab or the node a shorter name",
        )
