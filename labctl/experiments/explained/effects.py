"""How the states at every hop follow from what is on the way: `effects`."""

from __future__ import annotations

from dataclasses import replace

from labctl.experiments.explained.bridged import WHOLE
from labctl.experiments.explained.model import Arm, Way, Workaround
from labctl.experiments.explained.prose import prose
from labctl.experiments.explained.router_hop import ROUTER_HOP

_MECHANISM = prose("effects")

EFFECTS = replace(
    ROUTER_HOP,
    name="effects",
    title="Any topology: what the kinds on a path are said to do is what is seen.",
    topology="three-networks.yaml",
    hypothesis="On every path each hop shows what the effects of the kinds before it make of a "
    "packet.",
    mechanism=_MECHANISM,
    ways=(Way(), Way("xen-router-hop.yaml")),
    arms=(
        Arm(
            "vm1 to vm2",
            "the topology as it is; any other by --topology FILE",
            WHOLE,
            "works",
            "both routers let the kernel forward, which keeps the metadata. Make one of them raw "
            "in a copy of the file, and the same experiment expects the loss there",
        ),
    ),
    evidence=(
        *ROUTER_HOP.evidence,
        "The offloads in effect are read back before each arm: a guest whose tx-checksumming is "
        "off is expected to complete its sums, a TAP or vif where it is off to get them finished.",
    ),
    useless=(
        Workaround(
            "an effect declared otherwise", "the experiment fails: it is held against each hop"
        ),
    ),
    other="",
    limits=(
        "It is as good as what kinds say of themselves about the checks that were made: a kind "
        "that loses the metadata of packets that are not sent here is not found out.",
    ),
)

ALL = (EFFECTS,)
