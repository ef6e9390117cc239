"""Every offload setting people try, on a bridge and through a copying router: what each does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from labctl.experiments.expectations import check_packet, expected_of
from labctl.experiments.model import experiment
from labctl.experiments.run_context import Arm, Trial
from labctl.experiments.traffic_run import (
    TrafficRun,
    check_answer,
    check_in_effect,
    check_no_errors,
    run_traffic,
)
from labctl.experiments.variants import Case
from labctl.kinds.forwarders.raw import Raw
from labctl.lab.lab import Lab
from labctl.topology.expected import FINISHED, Ends, Expected

NODES = ("vm1", "vm2")
WAYS = {"bridge": "eth0", Raw.name: "eth1"}
"""The two ways of offload.yaml, by the interface that takes each."""


@dataclass(frozen=True)
class Setting:
    """One setting, and what follows from it."""

    name: str
    description: str
    guest: Mapping[str, bool] = field(default_factory=dict)
    """Features to set inside the nodes of `where`."""
    tap: Mapping[str, bool] = field(default_factory=dict)
    device: Mapping[str, bool] = field(default_factory=dict)
    where: tuple[str, ...] = NODES
    finished_by: tuple[str, ...] = ()
    """The nodes that complete their own checksums."""
    finished_for: tuple[str, ...] = ()
    """The nodes for which the host finishes what is still partial when it reaches their TAP."""


SETTINGS = (
    Setting("defaults", "offloads as they come"),
    Setting("guest tx off", "ethtool -K tx off in both guests",
            guest={"tx-checksumming": False}, finished_by=NODES),
    Setting("one guest tx off", "ethtool -K tx off in vm1 only",
            guest={"tx-checksumming": False}, where=("vm1",), finished_by=("vm1",)),
    Setting("tso gso off", "segmentation offloads off in both guests, checksum offload on",
            guest={"tcp-segmentation-offload": False, "generic-segmentation-offload": False}),
    Setting("tap tx off", "ethtool -K tx off on the host's TAPs",
            tap={"tx-checksumming": False}, finished_for=NODES),
    Setting("device csum off", "the virtio devices do not offer to complete checksums",
            device={"csum": False}, finished_by=NODES),
    Setting("device guest_csum off", "the virtio devices do not pass unfinished checksums in",
            device={"csum": True, "guest_csum": False}, finished_for=NODES),
)  # fmt: skip


def _story(found: Mapping[str, str]) -> list[str]:
    """Show what became of SSH (`found`), a row a setting, a column a way."""
    width = max(len(one.name) for one in SETTINGS)
    across = max(13, *(len(found[f"{one.name}/bridge"]) for one in SETTINGS))
    return [
        "vm1 ── lan ── vm2        vm1 ── left ── r1 (raw) ── right ── vm2",
        "",
        f"  {'SSH with':{width}}  {'on the bridge':{across}}  through raw",
        *(
            f"  {one.name:{width}}  {found[f'{one.name}/bridge']:{across}}  "
            f"{found[f'{one.name}/{Raw.name}']}"
            for one in SETTINGS
        ),
        "",
        "On a bridge every setting works, so none of them shows anything there. Through a router",
        "that loses needs_csum only those help that let the senders complete their sums",
        "themselves; in one guest alone it moves the loss to the other guest.",
    ]


@experiment(
    "offload",
    topology="offload.yaml",
    hypothesis="A copying router works only where the sender itself completes checksums, at both "
    "ends; segmentation, the host's TAPs and what a guest accepts make no difference to it.",
    variants={"setting": {one.name: one for one in SETTINGS}, "way": WAYS},
    describe=lambda case: str(case["setting"].description),
    story=_story,
)
def offload(trial: Trial, arm: Arm, case: Case) -> str:
    """Seven offload settings, over a bridge and through a copying router: which ones help."""
    setting: Setting = case["setting"]
    interface: str = case["way"]
    _restart(trial.lab, setting, interface)
    with _applied(trial.lab, setting, interface):
        _check_effect(arm, trial.lab, setting, interface)
        traffic = run_traffic(trial, arm, *NODES, 4, interface=interface, with_ping=False)
    _check(arm, setting, traffic)
    return traffic.ssh.text if traffic.ssh else ""


def _restart(lab: Lab, setting: Setting, interface: str) -> None:
    """Start the guests again where their devices are not yet as a setting wants them."""
    for name in setting.where if setting.device else ():
        bits = lab.node(name).device(interface)
        if any(bits[feature] is not value for feature, value in setting.device.items()):
            lab.restart(*setting.where, device=setting.device)
            return


@contextlib.contextmanager
def _applied(lab: Lab, setting: Setting, interface: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in setting.where:
            node = lab.node(name)
            if setting.guest:
                stack.enter_context(node.offload(setting.guest, interface))
            if setting.tap:
                tap = node.interface(interface).tap
                stack.enter_context(lab.tap_offload(tap, setting.tap))
        yield


def _check_effect(arm: Arm, lab: Lab, setting: Setting, interface: str) -> None:
    """Read back what is in effect: what was asked proves nothing."""
    for name in setting.where:
        node = lab.node(name)
        for feature, value in setting.guest.items():
            active = node.features(interface)[feature].active
            check_in_effect(arm, f"{name} {feature}", value, active)
        if setting.tap:
            found = lab.tap_features(node.interface(interface).tap)
            active = found["tx-checksum-ip-generic"].active
            check_in_effect(arm, f"{name}'s TAP tx-checksumming", False, active)
        bits = node.device(interface)
        for feature, value in setting.device.items():
            check_in_effect(arm, f"{name} device {feature}", value, bits[feature])


def _check(arm: Arm, setting: Setting, traffic: TrafficRun) -> None:
    taps = [hop for hop in traffic.path if hop.of_guest and hop.at_bridge]
    completing = [tap.name for tap in taps if tap.element in setting.finished_for]
    ends = Ends(setting.finished_by, completing)
    syn, syn_ack, datagram = (
        expected_of(traffic, wanted, ends)
        for wanted in (traffic.syn, traffic.syn_ack, traffic.datagram)
    )
    works = syn.accepted and syn_ack.accepted
    check_answer(arm, "ssh", traffic.ssh, works=works)
    check_answer(arm, "udp", traffic.udp, works=datagram.accepted)
    check_packet(arm, traffic, traffic.syn, syn, _words)
    check_packet(arm, traffic, traffic.datagram, datagram, _words)
    if syn.accepted:  # else nobody answers
        check_packet(arm, traffic, traffic.syn_ack, syn_ack, _words)
    if works:
        check_no_errors(arm, traffic)
        return
    blamed = "vm1" if syn.accepted else "vm2"
    assert traffic.ssh is not None
    grown = traffic.ssh.grown(blamed, "TcpInCsumErrors")
    passed = None if traffic.ssh.works is None else grown > 0
    arm.check(f"TcpInCsumErrors at {blamed}", "grows", f"grew by {grown}", passed)


def _words(expected: Expected) -> str:
    """Say what each hop must show, in the words of this experiment."""
    if expected.lost:
        return f"partial; needs_csum up to {expected.lost.element}, none after it"
    if expected.changes:
        return f"partial with needs_csum, finished at {expected.changes[0].element}'s TAP"
    return "valid at every hop" if expected.begin == FINISHED else expected.words
