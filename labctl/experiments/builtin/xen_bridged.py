"""Two Xen guests on one bridge: the checksum covers only the pseudo-header, and SSH works."""

from __future__ import annotations

import contextlib

from labctl.experiments import rings
from labctl.experiments.crossing import Crossing, check_passes, cross
from labctl.experiments.finishing import finishing
from labctl.experiments.model import experiment
from labctl.experiments.story import table
from labctl.experiments.trial import Arm, Trial
from labctl.lab.watch import watch_flags
from labctl.world.deadline import Deadline

VIFS = ("vm1-eth0", "vm2-eth0")
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


@experiment(
    "xen-bridged",
    topology="xen-bridged.yaml",
    hypothesis="Between two Xen guests on one host SSH works although every checksum covers only "
    "the pseudo-header, because csum_blank and data_validated travel from ring to ring.",
)
def xen_bridged(trial: Trial) -> None:
    """Two Xen guests on one bridge: SSH works with sums of the pseudo-header only; shows why."""
    found: dict[str, Crossing] = {}
    crossed: dict[str, list[rings.Passage]] = {}
    for version in (4, 6):
        with trial.arm(f"ipv{version}", "one bridge in dom0, offloads as they come") as arm:
            crossing, passed = _cross(trial, arm, version, flags=rings.BOTH)
            check_passes(arm, crossing, finished=False)
            found[f"IPv{version}"], crossed[f"IPv{version}"] = crossing, passed
    # The control: with nothing left to finish the same hops must show finished sums, and no flag.
    with (
        trial.arm("control/tc-csum", "each guest finishes its sums by tc, IPv4") as arm,
        contextlib.ExitStack() as stack,
    ):
        for name in ("vm1", "vm2"):
            stack.enter_context(finishing(trial.lab.node(name)))
        crossing, passed = _cross(trial, arm, 4, flags=())
        check_passes(arm, crossing, finished=True)
        found["IPv4, tc csum"], crossed["IPv4, tc csum"] = crossing, passed
    trial.story += ["vm1 ── vm1-eth0 ── lan ── vm2-eth0 ── vm2    (dom0, but for the guests)", ""]
    trial.story += ["The first packet of SSH (SYN) from vm1 to vm2:", ""]
    trial.story += table({name: (one.steps(one.syn), one.ssh) for name, one in found.items()})
    for name, one in found.items():
        trial.story += ["", f"Packet by packet, {name}:", ""]
        trial.story += rings.lines(crossed[name], {one.there: "vm1", one.back: "vm2"})
    trial.story += EXPLANATION.splitlines()


def _cross(
    trial: Trial, arm: Arm, version: int, *, flags: tuple[str, ...]
) -> tuple[Crossing, list[rings.Passage]]:
    """Cross the bridge while the rings are watched, and check what they say of three packets."""
    with watch_flags(trial.lab, "xen1", VIFS, trial.scratch(f"{arm.name} flags")) as watch:
        crossing = cross(trial, arm, "vm1", "vm2", version)
        told = watch.stop(Deadline(STOP_SECONDS, "ending the observer of the flags"))
    assert crossing.evidence is not None
    crossed = rings.passages(crossing.evidence, told, VIFS)
    for wanted in (crossing.syn, crossing.syn_ack, crossing.datagram):
        rings.check_flags(arm, told, crossed, crossing.steps(wanted), wanted, flags)
    return crossing, crossed
