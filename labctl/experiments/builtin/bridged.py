"""One bridge: every captured checksum is unfinished, and SSH works."""

from __future__ import annotations

from labctl.experiments.crossing import check_passes, cross
from labctl.experiments.model import experiment
from labctl.experiments.story import table
from labctl.experiments.trial import Trial

EXPLANATION = """
The sender's kernel leaves the pseudo-header sum in the checksum field (partial) and says beside the
packet that the rest is to be done (needs_csum). Virtio carries both to the TAP, the bridge forwards
both, virtio carries both to the receiver; its kernel knows that the packet never crossed a wire and
takes it. tcpdump shows the field alone, hence "incorrect". Nothing is wrong, and nothing is lost.
"""


@experiment(
    "bridged",
    topology="bridged.yaml",
    hypothesis="Over one bridge SSH works although no checksum is ever finished, because "
    "needs_csum travels with every packet to the receiving kernel.",
)
def bridged(trial: Trial) -> None:
    """Two guests on one bridge: SSH works with unfinished checksums; shows why."""
    found = {}
    for version in (4, 6):
        with trial.arm(f"ipv{version}", "one bridge, offloads as they come") as arm:
            crossing = cross(trial, arm, "vm1", "vm2", version)
            check_passes(arm, crossing, finished=False)
            found[f"IPv{version}"] = crossing
    # The control: with nothing left to finish the same hops must show finished sums.
    with trial.arm("control/tx-off", "checksum offload off in both guests, IPv4") as arm:
        vm1, vm2 = trial.lab.node("vm1"), trial.lab.node("vm2")
        off = {"tx-checksumming": False}
        with vm1.offload(off), vm2.offload(off):
            crossing = cross(trial, arm, "vm1", "vm2", 4, with_ping=False)
        check_passes(arm, crossing, finished=True)
        found["IPv4, tx off"] = crossing
    trial.story += ["vm1 ── lan ── vm2", ""]
    trial.story += table({name: (one.steps(one.syn), one.ssh) for name, one in found.items()})
    trial.story += EXPLANATION.splitlines()
