"""The offloads in effect in a running lab, as they are read back."""

from __future__ import annotations

from labctl.lab.lab import Lab

Offloads = dict[str, dict[str, dict[str, bool]]]
"""By interface and layer, each feature with whether it is on."""


def read(lab: Lab) -> Offloads:
    """Read back every offload in effect.

    Returns `{"vm1/eth0": {"guest" | "tap" | "device": {feature: on}}}`; features that are off
    and cannot be changed are left out, and so is what a guest cannot tell.
    """
    found: Offloads = {}
    for node in lab.nodes:
        for interface in node.model.interfaces:
            its = found[f"{node.name}/{interface.name}"] = {}
            if not node.offloads_untold:
                guest = node.features(interface.name)
                its["guest"] = {n: f.active for n, f in guest.items() if f.active or not f.fixed}
            tap = lab.tap_features(interface.tap)
            its["tap"] = {n: f.active for n, f in tap.items() if f.active or not f.fixed}
            its["device"] = node.device(interface.name)
    return found
