"""A Xen host with its guests in a sandbox of its own, put together from a topology by hand."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from labctl import images
from labctl.capture.point import Point
from labctl.capture.session import Capture
from labctl.capture.spawn import Handle
from labctl.events import Event
from labctl.guests import driver, keys, spec, ssh, xen, xen_host
from labctl.guests.spec import Guest, Nic
from labctl.images.kernel import unpacked
from labctl.kinds.guests.xen_host import DOM0_MEMORY
from labctl.network import links
from labctl.sandbox.base import Process
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.namespaces import Namespaces
from labctl.sandbox.process import Result
from labctl.topology import loader, lookup
from labctl.topology.model import MGMT_BRIDGE, Topology

COMMAND_SECONDS = 120.0


@dataclass
class XenLab:
    """One Xen host, running, and what lives on it."""

    topology: Topology
    sandbox: Namespaces
    host: xen.XenHost
    host_guest: Guest
    guests: tuple[xen.XenGuest, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    """How long the host took, then each guest."""

    @property
    def directory(self) -> Path:
        return self.sandbox.directory

    def boot(self) -> None:
        """Start the Xen host until a command ran in dom0."""
        self.seconds |= self._call(
            driver.start, self._hypervisor, (self.host_guest,), "tcg", "xen", self.directory
        )

    def start(self, *names: str) -> None:
        """Start guests on it until a command ran in each; all without names."""
        chosen = tuple(one for one in self.guests if not names or one.guest.name in names)
        self.seconds |= self._call(xen.start, self.host, chosen, "xen")

    def stop_host(self) -> None:
        self.sandbox.call(driver.stop, self._hypervisor, self.host_guest.domain)

    def run(self, name: str, line: str, *, check: bool = True, seconds: float = 120.0) -> Result:
        """Run a shell's line in a guest or in dom0."""
        return self.sandbox.agent().run(
            [*ssh.command(self.directory, name), line], Deadline(seconds, line), check=check
        )

    def capture(self, points: Sequence[Point], folder: Path) -> Capture:
        def spawn(argv: Sequence[str], *, stdout: Path, stderr: Path, limit: int = 0) -> Handle:
            return Process.start(
                self.sandbox.agent(), argv, stdout=stdout, stderr=stderr, limit=limit
            )

        return Capture(points, folder, deadline=Deadline(60, "starting observers"), spawn=spawn)

    @property
    def _hypervisor(self) -> driver.Hypervisor:
        return driver.Hypervisor(self.directory / "embed")

    def _call(self, function: Callable[..., dict[str, float]], *args: object) -> dict[str, float]:
        return self.sandbox.agent().call_with_events(function, *args, emit=_told)


def _told(event: Event) -> None:
    print(f"{time.monotonic():.1f} {event.stage} {event.subject} {event.state} {event.detail}")


@contextmanager
def xen_lab(
    name: str,
    *,
    memory: int = 1024,
    dom0_memory: int = DOM0_MEMORY,
    change: Callable[[Topology], Topology] = lambda topology: topology,
) -> Iterator[XenLab]:
    """Make the sandbox, the networks and the files of a shipped topology with one Xen host."""
    topology = change(loader.load(lookup.find(name)))
    (host,) = topology.xen_hosts()
    inside = topology.inside(host.name)
    image, micro = images.get("xen-host"), images.get("micro")
    kernel = unpacked(micro.kernel)
    client = keys.Key.make()
    hostkeys = {node: keys.Key.make() for node in topology.nodes}
    clients = {node.name: keys.Key.make() for node in inside.nodes}
    with tempfile.TemporaryDirectory(prefix="lx", dir="/tmp") as folder:
        sandbox = Namespaces.create(Path(folder) / "w")
        try:
            sandbox.call(links.leave_bridges_alone)
            sandbox.call(links.build, topology)
            ssh.write_config(
                sandbox.directory,
                MGMT_BRIDGE,
                client,
                {
                    node.name: ssh.Host(node.mgmt_mac, hostkeys[node.name].public)
                    for node in topology.nodes.values()
                },
            )
            uplinks = {
                one.network: xen_host.Port(
                    Nic(one.name, one.tap, one.mac, one.model, one.offload.device), one.mtu
                )
                for one in host.interfaces
            }
            assert image.hypervisor
            host_guest = xen_host.guest(
                host.name,
                host.name,
                hypervisor=image.hypervisor,
                kernel=unpacked(image.kernel),
                initramfs=image.initramfs,
                memory=memory,
                vcpus=2,
                mgmt=xen_host.management(host.mgmt_tap, host.mgmt_mac),
                bridges=[
                    xen_host.Bridge(
                        network.bridge,
                        network.mtu,
                        tuple(map(str, network.addresses)),
                        tuple(uplinks[one] for one in [network.name] if one in uplinks),
                    )
                    for network in inside.networks
                ],
                settings=spec.setting_lines(host),
                drives=(kernel, micro.initramfs),
                client=client,
                hostkey=hostkeys[host.name],
                directory=sandbox.directory,
                dom0_memory=dom0_memory,
            )
            guests = []
            for node in inside.nodes:
                nics = [Nic(one.name, one.tap, one.mac, "xen", {}) for one in node.interfaces]
                nics.append(Nic(spec.MGMT_INTERFACE, node.mgmt_tap, node.mgmt_mac, "xen", {}))
                bridges = {
                    one.tap: topology.networks[one.network].bridge for one in node.interfaces
                }
                guests.append(
                    xen.XenGuest(
                        Guest(
                            name=node.name,
                            domain=node.name,
                            memory=node.memory,
                            vcpus=node.vcpus,
                            kernel=kernel,
                            initramfs=micro.initramfs,
                            cmdline=xen.CMDLINE,
                            nics=tuple(nics),
                            console=sandbox.directory / "console" / f"{node.name}.sock",
                            log=sandbox.directory / "console" / f"{node.name}.log",
                        ),
                        {**bridges, node.mgmt_tap: MGMT_BRIDGE},
                        spec.boot_lines(topology, node, client, clients, hostkeys),
                    )
                )
            place = xen.XenHost(host.name, sandbox.directory, host_guest.log, host_guest.domain)
            yield XenLab(topology, sandbox, place, host_guest, tuple(guests))
        finally:
            sandbox.end()
