"""What a topology wants of the host's end of interfaces: offloads of TAPs, and impairments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labctl.lab.ports import ports
from labctl.network import features
from labctl.topology import model

if TYPE_CHECKING:
    from labctl.lab.lab import Lab


def apply_taps(lab: Lab, node: model.Node) -> None:
    """Set the TAP offloads that a topology asks for.

    Only when a node has started: then its driver does, and QEMU sets the TAP's features to what
    that driver takes (TUNSETOFFLOAD, tun_chr_ioctl), over whatever was set before.
    """
    for interface in node.interfaces:
        if interface.offload.tap:
            lab.place(node.host).call(features.change, interface.tap, interface.offload.tap)


def impair(lab: Lab, owner: str = "") -> None:
    """Impair links as the topology wants, all of them or those of a node or router."""
    for one in ports(lab.topology):
        if (wanted := one.interface.impairment) and owner in ("", one.owner):
            from labctl.network import netem  # here: most labs have none

            lab.place(one.host).call(netem.impair, one.outer, wanted)
