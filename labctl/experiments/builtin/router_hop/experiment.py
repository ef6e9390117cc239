"""A router between two guests: why SSH hangs behind one that forwards packets as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from labctl.experiments.evidence import fault_location
from labctl.experiments.expectations import check_traffic
from labctl.experiments.model import experiment
from labctl.experiments.run_context import Arm, Trial
from labctl.experiments.software_checksums import software_checksums
from labctl.experiments.text_tables import table
from labctl.experiments.traffic_run import TrafficRun, run_traffic
from labctl.experiments.variants import Axis, Case
from labctl.kinds.forwarders.namespace import Namespace
from labctl.kinds.forwarders.raw import Raw
from labctl.kinds.forwarders.raw_vnet import RawVnet
from labctl.topology.expected import Ends

GUESTS = ("vm1", "vm2")
IP = {"ipv4": 4, "ipv6": 6}
KINDS = {
    Namespace.name: "control: the kernel forwards",
    Raw.name: "a program copies packets, metadata lost",
    RawVnet.name: "the same program, virtio header kept",
}
"""The kinds of router that are compared, with what each shows."""


@dataclass(frozen=True)
class Between:
    """What is between the guests."""

    kind: str
    """That of r1."""
    what: str
    finished: bool = False
    """Whether both guests complete their checksums."""


def variants(workaround: str, what: str) -> Mapping[str, Axis]:
    """Return r1 as each kind, and as the one that copies with guests that complete their sums."""
    between = {kind: Between(kind, words) for kind, words in KINDS.items()}
    between[f"{Raw.name} {workaround}"] = Between(Raw.name, f"{Raw.name}, {what}", finished=True)
    return {"between": between, "ip": IP}


def describe(case: Case) -> str:
    """Say what an arm shows."""
    between: Between = case["between"]
    return between.what


def cross_router(trial: Trial, arm: Arm, case: Case) -> TrafficRun:
    """Cross r1 as a case has it, and check what follows from its kind."""
    between: Between = case["between"]
    finishers = GUESTS if between.finished else ()
    trial.lab.router("r1").set_kind(between.kind)
    with contextlib.ExitStack() as stack:
        for name in finishers:
            stack.enter_context(software_checksums(trial.lab.node(name)))
        traffic = run_traffic(trial, arm, *GUESTS, case["ip"])
    check_traffic(arm, traffic, Ends(finished_by=finishers))
    return traffic


def lost_at(found: Mapping[str, TrafficRun]) -> str:
    """Name the place where the copying router lost the metadata of the first packet."""
    copied = found[f"{Raw.name}/ipv4"]
    return fault_location(copied.steps(copied.syn)) or "nowhere in this run"


def tables(found: Mapping[str, TrafficRun]) -> list[str]:
    """Show the first packet at every hop, a table an IP version, a column a router."""
    lines = []
    for label, version in IP.items():
        lines += [f"The first packet of SSH (SYN) from vm1 to vm2, IPv{version}:", ""]
        columns = {
            name.removesuffix(f"/{label}"): (one.steps(one.syn), one.ssh)
            for name, one in found.items()
            if name.endswith(f"/{label}")
        }
        lines += [*table(columns), ""]
    return lines


def _story(found: Mapping[str, TrafficRun]) -> list[str]:
    """Tell it to somebody who meets it for the first time."""
    drops = [drop for one in found.values() for some in one.drops.values() for drop in some]
    why = (
        "the kernel gives TCP_CSUM as its reason"
        if any(drop.reason == "TCP_CSUM" for drop in drops)
        else "of what kind it is, this kernel does not say"
    )
    return [
        "vm1 ── left ── r1 ── right ── vm2",
        "",
        *tables(found),
        "What happens. To save work the sender's kernel leaves a checksum unfinished: the field",
        "holds only the sum of the pseudo-header (partial), and beside the packet, not in it,",
        "travels the flag needs_csum: whoever puts this on a wire must finish it. Bridges and the",
        "kernel's own forwarding pass the metadata on, so the receiver knows all is well.",
        "",
        f"Where the knowledge was lost: {lost_at(found)}. A program that copies bytes from",
        "one packet socket to another copies the field but not the metadata. The packet goes on",
        "with a sum that nobody will finish; vm2 takes it for damage and drops it (TcpInCsumErrors",
        f"grows; {why}). tcpdump shows the same bytes at vm2",
        "whether the packet will live or die. Ping works because ICMP is summed in software from",
        "the start.",
        "",
        f"What proves it. {RawVnet.name} is the same program with one socket option more",
        "(PACKET_VNET_HDR), so that the metadata is copied too: SSH works, and no byte of the",
        "packet differs. With `ethtool -K eth0 tx off` in both guests there is nothing left to",
        "finish and the copying router does no harm; in one guest it would only move the loss to",
        "the other.",
    ]


@experiment(
    "router-hop",
    topology="router-hop.yaml",
    hypothesis="SSH hangs behind a router that copies packets as they are, because the copy loses "
    "needs_csum: nobody completes the checksum and the receiving kernel drops the packet.",
    variants=variants("tx-off", "checksum offload off in both guests"),
    describe=describe,
    story=_story,
)
def router_hop(trial: Trial, arm: Arm, case: Case) -> TrafficRun:
    """A router that copies packets: SSH hangs, ping works; names the hop and proves the cause."""
    return cross_router(trial, arm, case)
