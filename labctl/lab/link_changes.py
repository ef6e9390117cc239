"""Links of a running lab that lose their carrier and get it back, or are made worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labctl.lab import qemu
from labctl.lab.ports import Port, ports
from labctl.lab.power import changing
from labctl.network import links, netem
from labctl.topology.impairment import Impairment

if TYPE_CHECKING:
    from labctl.lab.lab import Lab


@dataclass(frozen=True)
class PortState:
    """What was done to an interface's link."""

    port: Port
    down: bool
    impairment: Impairment

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "name": self.port.name,
            "network": self.port.interface.network,
            "other_end": self.port.outer,
            "state": "down" if self.down else "up",
            "impairment": self.impairment.written(),
        }


def set_carrier(lab: Lab, ports: Sequence[Port], carrier: bool) -> None:
    """Give interfaces their carrier or take it away, as pulling their cables does.

    Raises `GuestError` for a guest that does not run, `HostError`.
    """
    with changing(lab):
        for one in ports:
            down = [name for name in lab._state.links_down if name != one.name]
            if one.by_qemu:
                lab.check_running(one.owner)
                node = lab.topology.nodes[one.owner]
                qemu.set_carrier(lab._making(), node, one.interface.mac, carrier)
            else:
                lab.place(one.host).call(links.set_up, one.outer, carrier)
            lab._remember(links_down=down if carrier else [*down, one.name])


def impair(lab: Lab, ports: Sequence[Port], wanted: Impairment) -> None:
    """Impair what reaches interfaces from their networks, in place of what was done before.

    Raises `HostError` where the kernel cannot; those before it are impaired then.
    """
    with changing(lab):
        for one in ports:
            lab.place(one.host).call(netem.impair, one.outer, wanted)


def states(lab: Lab) -> list[PortState]:
    """Return what was done to each interface's link."""
    every = ports(lab.topology)
    found = {
        host: lab.place(host).call(
            netem.impairments, [one.outer for one in every if one.host == host]
        )
        for host in dict.fromkeys(one.host for one in every)
    }
    return [
        PortState(
            one,
            one.name in lab._state.links_down,
            found[one.host].get(one.outer, Impairment()),
        )
        for one in every
    ]
