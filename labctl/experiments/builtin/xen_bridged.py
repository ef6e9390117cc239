"""Two Xen guests on one bridge: the checksum covers only the pseudo-header, and SSH works."""

from __future__ import annotations

import contextlib

from labctl.experiments.crossing import Crossing, check_passes, cross
from labctl.experiments.finishing import finishing
from labctl.experiments.model import experiment
from labctl.experiments.story import table
from labctl.experiments.trial import Trial

EXPLANATION = """
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
    for version in (4, 6):
        with trial.arm(f"ipv{version}", "one bridge in dom0, offloads as they come") as arm:
            crossing = cross(trial, arm, "vm1", "vm2", version)
            check_passes(arm, crossing, finished=False)
            found[f"IPv{version}"] = crossing
    # The control: with nothing left to finish the same hops must show finished sums.
    with (
        trial.arm("control/tc-csum", "each guest finishes its sums by tc, IPv4") as arm,
        contextlib.ExitStack() as stack,
    ):
        for name in ("vm1", "vm2"):
            stack.enter_context(finishing(trial.lab.node(name)))
        crossing = cross(trial, arm, "vm1", "vm2", 4, with_ping=False)
        check_passes(arm, crossing, finished=True)
        found["IPv4, tc csum"] = crossing
    trial.story += [
        "vm1 ── vm1-eth0 ── lan ── vm2-eth0 ── vm2        (all but the guests: dom0)",
        "",
    ]
    trial.story += table({name: (one.steps(one.syn), one.ssh) for name, one in found.items()})
    trial.story += EXPLANATION.splitlines()
