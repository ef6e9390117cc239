"""A router in dom0 between two Xen guests: the same failure between two pairs of rings."""

from __future__ import annotations

from collections.abc import Mapping

from labctl.experiments.builtin.router_hop.experiment import (
    cross_router,
    describe,
    lost_at,
    tables,
    variants,
)
from labctl.experiments.model import experiment
from labctl.experiments.run_context import Arm, Trial
from labctl.experiments.traffic_run import TrafficRun
from labctl.experiments.variants import Case
from labctl.kinds.forwarders.raw_vnet import RawVnet


def _story(found: Mapping[str, TrafficRun]) -> list[str]:
    kept = RawVnet.name
    return [
        "vm1 ── vm1-eth0 ── left ── r1 ── right ── vm2-eth0 ── vm2    (dom0, but for the guests)",
        "",
        *tables(found),
        "What happens. vm1's netfront puts the packet on the ring with XEN_NETTXF_csum_blank and",
        "XEN_NETTXF_data_validated (xennet_start_xmit): the field holds the pseudo-header's sum",
        "only, and nobody need check it. netback makes CHECKSUM_PARTIAL of that (xenvif_tx_submit;",
        "checksum_setup and skb_checksum_setup find where the sum goes). Forwarded by dom0's",
        "kernel it stays so, and netback tells vm2 by XEN_NETRXF_csum_blank (xenvif_rx_action).",
        "",
        f"Where the knowledge was lost: {lost_at(found)}. A program that copies bytes from",
        "one packet socket to another makes a packet that claims to be finished. The netback of",
        "vm2-eth0 then sets no flag; vm2's kernel sums the packet up, finds it wrong and drops it",
        "(TcpInCsumErrors grows, TCP_CSUM). Ping works: ICMP is summed in software from the start.",
        "",
        f"What proves it. {kept} is the same program with PACKET_VNET_HDR: SSH works, no byte of",
        "the packet differs. With the sum finished in the guests the copying router does no harm.",
        "On Xen `ethtool -K eth0 tx off` does not do that for IPv4 (netfront keeps the feature",
        "on), the csum action of traffic control does: see `labctl experiment xen-offload`.",
    ]


@experiment(
    "xen-router-hop",
    topology="xen-router-hop.yaml",
    hypothesis="Between two Xen guests SSH hangs behind a router in dom0 that copies packets as "
    "they are: netback tells the next guest nothing of a checksum that the copy forgot about.",
    variants=variants("tc-csum", "each guest completes its checksums by tc's csum action"),
    describe=describe,
    story=_story,
)
def xen_router_hop(trial: Trial, arm: Arm, case: Case) -> TrafficRun:
    """A router in dom0 that copies packets: SSH between Xen guests hangs; names the hop."""
    return cross_router(trial, arm, case)
