"""Every offload setting people try, on a bridge and through a copying router: what each does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from labctl.experiments.crossing import (
    Crossing,
    check_answer,
    check_in_effect,
    check_no_errors,
    cross,
)
from labctl.experiments.evidence import Expectation, Wanted, check_states
from labctl.experiments.model import experiment
from labctl.experiments.trial import Arm, Trial
from labctl.kinds.forwarders.raw import Raw
from labctl.lab.lab import Lab
from labctl.packet.checksum import Checksum, Metadata
from labctl.topology.points import ObservationPoint

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
    """The nodes that finish their own checksums."""
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
    Setting("device csum off", "the virtio devices do not offer to finish checksums",
            device={"csum": False}, finished_by=NODES),
    Setting("device guest_csum off", "the virtio devices do not pass unfinished checksums in",
            device={"csum": True, "guest_csum": False}, finished_for=NODES),
)  # fmt: skip


@experiment(
    "offload",
    topology="offload.yaml",
    hypothesis="A copying router works only where the sender itself finishes checksums, at both "
    "ends; segmentation, the host's TAPs and what a guest accepts make no difference to it.",
)
def offload(trial: Trial) -> None:
    """Seven offload settings, over a bridge and through a copying router: which ones help."""
    rows: dict[str, dict[str, str]] = {}
    for setting in SETTINGS:
        if setting.device:
            trial.lab.restart(*setting.where, device=setting.device)
        for way, interface in WAYS.items():
            with trial.arm(f"{setting.name}/{way}", setting.description) as arm:
                with _applied(trial.lab, setting, interface):
                    _check_effect(arm, trial.lab, setting, interface)
                    crossing = cross(
                        trial, arm, "vm1", "vm2", 4, interface=interface, with_ping=False
                    )
                _check(arm, setting, way, crossing)
                fate = crossing.ssh.text if crossing.ssh else ""
                rows.setdefault(setting.name, {})[way] = fate
    if not rows:
        return  # every arm is an error, which says enough
    trial.story += ["vm1 ── lan ── vm2        vm1 ── left ── r1 (raw) ── right ── vm2", ""]
    width = max(len(name) for name in rows)
    across = max(len(row.get("bridge", "")) for row in rows.values())
    trial.story.append(f"  {'SSH with':{width}}  {'on the bridge':{max(across, 13)}}  through raw")
    for name, row in rows.items():
        bridge, raw = row.get("bridge", "?"), row.get(Raw.name, "?")
        trial.story.append(f"  {name:{width}}  {bridge:{max(across, 13)}}  {raw}")
    trial.story += [
        "",
        "On a bridge every setting works, so none of them shows anything there. Through a router",
        "that loses needs_csum only those help that let the senders finish their sums themselves;",
        "in one guest alone it moves the loss to the other guest.",
    ]


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


def _check(arm: Arm, setting: Setting, way: str, crossing: Crossing) -> None:
    reach = set(NODES) if way == "bridge" else set(setting.finished_by)
    works = reach == set(NODES)
    check_answer(arm, "ssh", crossing.ssh, works=works)
    check_answer(arm, "udp", crossing.udp, works="vm1" in reach)
    ways: list[tuple[Wanted, str, str]] = [
        (crossing.syn, "vm1", "vm2"),
        (crossing.datagram, "vm1", "vm2"),
    ]
    if "vm1" in reach:  # else no SYN arrives, and nobody answers
        ways.append((crossing.syn_ack, "vm2", "vm1"))
    for wanted, sender, receiver in ways:
        expected, expectation = _expectation(setting, way, sender, receiver)
        check_states(arm, crossing.steps(wanted), wanted, expected, expectation)
    if works:
        check_no_errors(arm, crossing)
        return
    blamed = "vm1" if "vm1" in setting.finished_by else "vm2"
    assert crossing.ssh is not None
    grown = crossing.ssh.grown(blamed, "TcpInCsumErrors")
    passed = None if crossing.ssh.works is None else grown > 0
    arm.check(f"TcpInCsumErrors at {blamed}", "grows", f"grew by {grown}", passed)


def _expectation(setting: Setting, way: str, sender: str, receiver: str) -> tuple[str, Expectation]:
    """Derive what each hop must show, with the words for it."""
    unfinished = (Checksum.PARTIAL, Metadata.NEEDS_CSUM)
    finished: tuple[Checksum, Metadata | None] = (Checksum.VALID, None)
    if sender in setting.finished_by:
        return "valid at every hop", lambda _hop: finished
    if way == Raw.name:
        orphaned = (Checksum.PARTIAL, Metadata.NONE)

        def through_raw(hop: ObservationPoint) -> tuple[Checksum, Metadata | None]:
            towards_sender = hop.element == "r1" and hop.name.endswith(_side(sender))
            return unfinished if hop.element == sender or towards_sender else orphaned

        return "partial; needs_csum up to r1, none after it", through_raw
    if receiver in setting.finished_for:
        return (
            f"partial with needs_csum, finished at {receiver}'s TAP",
            lambda hop: finished if hop.element == receiver else unfinished,
        )
    return "partial with needs_csum at every hop", lambda _hop: unfinished


def _side(sender: str) -> str:
    """The router's interface towards a node of offload.yaml."""
    return "eth0" if sender == "vm1" else "eth1"
