"""One bridge: every captured checksum is unfinished, and SSH works."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from labctl.experiments.expectations import check_traffic
from labctl.experiments.model import experiment
from labctl.experiments.run_context import Arm, Trial
from labctl.experiments.software_checksums import software_checksums
from labctl.experiments.text_tables import table
from labctl.experiments.traffic_run import TrafficRun, run_traffic
from labctl.experiments.variants import Case
from labctl.topology.expected import Ends

GUESTS = ("vm1", "vm2")
CONTROL = "control/tx-off"
"""With nothing left to finish the same hops must show completed sums."""
COLUMNS = {"ipv4": "IPv4", "ipv6": "IPv6", CONTROL: "IPv4, tx off"}
EXPLANATION = """
The sender's kernel leaves the pseudo-header sum in the checksum field (partial) and says beside the
packet that the rest is to be done (needs_csum). Virtio carries both to the TAP, the bridge forwards
both, virtio carries both to the receiver; its kernel knows that the packet never crossed a wire and
takes it. tcpdump shows the field alone, hence "incorrect". Nothing is wrong, and nothing is lost.
"""


def _story(found: Mapping[str, TrafficRun]) -> list[str]:
    columns = {COLUMNS[name]: (one.steps(one.syn), one.ssh) for name, one in found.items()}
    return ["vm1 ── lan ── vm2", "", *table(columns), *EXPLANATION.splitlines()]


def _describe(case: Case) -> str:
    if case.name == CONTROL:
        return "checksum offload off in both guests, IPv4"
    return "one bridge, offloads as they come"


@experiment(
    "bridged",
    topology="bridged.yaml",
    hypothesis="Over one bridge SSH works although no checksum is ever finished, because "
    "needs_csum travels with every packet to the receiving kernel.",
    variants={"ip": {"ipv4": 4, "ipv6": 6, CONTROL: 4}},
    describe=_describe,
    story=_story,
)
def bridged(trial: Trial, arm: Arm, case: Case) -> TrafficRun:
    """Two guests on one bridge: SSH works with unfinished checksums; shows why."""
    finishers = GUESTS if case.name == CONTROL else ()
    with contextlib.ExitStack() as stack:
        for name in finishers:
            stack.enter_context(software_checksums(trial.lab.node(name)))
        traffic = run_traffic(trial, arm, *GUESTS, case["ip"], with_ping=not finishers)
    check_traffic(arm, traffic, Ends(finished_by=finishers))
    return traffic
