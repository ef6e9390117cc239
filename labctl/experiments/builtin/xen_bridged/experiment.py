"""Two Xen guests on one bridge: the checksum covers only the pseudo-header, and SSH works."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from labctl.experiments import rings
from labctl.experiments.expectations import check_traffic
from labctl.experiments.model import experiment
from labctl.experiments.run_context import Arm, Trial
from labctl.experiments.software_checksums import software_checksums
from labctl.experiments.text_tables import table
from labctl.experiments.traffic_run import TrafficRun, run_traffic
from labctl.experiments.variants import Case
from labctl.lab.watch import watch_flags
from labctl.sandbox.deadline import Deadline
from labctl.topology.expected import Ends

GUESTS = ("vm1", "vm2")
VIFS = ("vm1-eth0", "vm2-eth0")
CONTROL = "control/tc-csum"
"""With nothing left to finish the same hops must show completed sums, and the rings no flag."""
COLUMNS = {"ipv4": "IPv4", "ipv6": "IPv6", CONTROL: "IPv4, tc csum"}
STOP_SECONDS = 60.0
EXPLANATION = """
vm1's kernel leaves the pseudo-header's sum in the checksum field and marks the packet
CHECKSUM_PARTIAL. netfront puts that on the ring as XEN_NETTXF_csum_blank (the sum is to be made)
and XEN_NETTXF_data_validated (nobody need check it): xennet_start_xmit. netback in dom0 turns the
flags into CHECKSUM_PARTIAL again (xenvif_tx_submit); as the ring has no room to say where the sum
goes, checksum_setup and skb_checksum_setup find it in the headers. The bridge forwards the packet
with that knowledge; the receiver's netback writes XEN_NETRXF_csum_blank and
XEN_NETRXF_data_validated into the other ring (xenvif_rx_action), and vm2's netfront makes
CHECKSUM_PARTIAL of them (its own checksum_setup): a packet that never met a wire, and is taken.

Every "incorrect" checksum above is the pseudo-header's sum to the bit. Nothing is wrong, and
nothing is lost: as on virtio (`labctl experiment bridged`), with two ring flags in place of the
virtio header.
"""


@dataclass(frozen=True)
class Shown:
    """What one case found."""

    traffic: TrafficRun
    passages: list[rings.RingTransit]


def _story(found: Mapping[str, Shown]) -> list[str]:
    columns = {
        COLUMNS[name]: (one.traffic.steps(one.traffic.syn), one.traffic.ssh)
        for name, one in found.items()
    }
    lines = ["vm1 ── vm1-eth0 ── lan ── vm2-eth0 ── vm2    (dom0, but for the guests)", ""]
    lines += ["The first packet of SSH (SYN) from vm1 to vm2:", "", *table(columns)]
    for name, one in found.items():
        lines += ["", f"Packet by packet, {COLUMNS[name]}:", ""]
        senders = {one.traffic.there: "vm1", one.traffic.back: "vm2"}
        lines += rings.lines(one.passages, senders)
    return [*lines, *EXPLANATION.splitlines()]


def _describe(case: Case) -> str:
    if case.name == CONTROL:
        return "each guest completes its sums by tc, IPv4"
    return "one bridge in dom0, offloads as they come"


@experiment(
    "xen-bridged",
    topology="xen-bridged.yaml",
    hypothesis="Between two Xen guests on one host SSH works although every checksum covers only "
    "the pseudo-header, because csum_blank and data_validated travel from ring to ring.",
    variants={"ip": {"ipv4": 4, "ipv6": 6, CONTROL: 4}},
    describe=_describe,
    story=_story,
)
def xen_bridged(trial: Trial, arm: Arm, case: Case) -> Shown:
    """Two Xen guests on one bridge: SSH works with sums of the pseudo-header only; shows why."""
    finishers = GUESTS if case.name == CONTROL else ()
    with contextlib.ExitStack() as stack:
        for name in finishers:
            stack.enter_context(software_checksums(trial.lab.node(name)))
        shown = _cross(trial, arm, case["ip"], flags=() if finishers else rings.BOTH)
        check_traffic(arm, shown.traffic, Ends(finished_by=finishers))
    return shown


def _cross(trial: Trial, arm: Arm, version: int, *, flags: tuple[str, ...]) -> Shown:
    """Cross the bridge while the rings are watched, and check what they say of three packets."""
    with watch_flags(trial.lab, "xen1", VIFS, trial.scratch(f"{arm.name} flags")) as watch:
        traffic = run_traffic(trial, arm, *GUESTS, version)
        told = watch.stop(Deadline(STOP_SECONDS, "ending the observer of the flags"))
    assert traffic.evidence is not None
    crossed = rings.passages(traffic.evidence, told, VIFS)
    for wanted in (traffic.syn, traffic.syn_ack, traffic.datagram):
        rings.check_flags(arm, told, crossed, traffic.steps(wanted), wanted, flags)
    return Shown(traffic, crossed)
