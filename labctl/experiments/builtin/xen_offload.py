"""Every offload setting people try between Xen guests: which ones do anything, and where."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from labctl.experiments.builtin.xen_offload_gso import super_frames
from labctl.experiments.crossing import (
    Crossing,
    check_answer,
    check_in_effect,
    check_no_errors,
    check_passes,
    cross,
)
from labctl.experiments.evidence import Step, check_states, everywhere, until
from labctl.experiments.finishing import finishing
from labctl.experiments.model import experiment
from labctl.experiments.story import aligned
from labctl.experiments.trial import Arm, Trial
from labctl.lab.node import Node
from labctl.packet.checksum import Checksum, Metadata

FINISHED: tuple[Checksum, Metadata | None] = (Checksum.VALID, None)
OFF = {"tx-checksumming": False}
ASKED = "tx-checksum-ipv4: on [requested off]"
GUESTS = ("vm1", "vm2")


@dataclass
class Rows:
    """The lines of one table of the story: a packet's state at each of the hops, SSH's fate."""

    heads: tuple[str, ...]
    rows: list[list[str]] = field(default_factory=list)

    def add(self, label: str, crossing: Crossing, *, answer: bool = False) -> None:
        """Add the SYN of a crossing, or its answer."""
        wanted = crossing.syn_ack if answer else crossing.syn
        steps = crossing.steps(wanted)
        if answer:
            steps = steps[::-1]  # in the columns' order
        fate = crossing.ssh.text if crossing.ssh else ""
        self.rows.append([label, *(_short(step) for step in steps), "" if answer else fate])

    @property
    def lines(self) -> list[str]:
        """The table as text."""
        return aligned([["", *self.heads, "SSH"], *self.rows])


def _short(step: Step) -> str:
    if step.seen is None:
        return "not seen" if step.complete else "unknown"
    judgement = step.seen.judgement
    return "partial, LOST" if judgement.lost else str(judgement.state)


@experiment(
    "xen-offload",
    topology="xen-offload.yaml",
    hypothesis="Between netfront and netback other switches finish a checksum than between virtio "
    "and a TAP: `tx off` in the guest does nothing for IPv4, tx off on the receiver's vif or "
    "traffic control in the guest does, and so does an uplink that is no virtio NIC.",
)
def xen_offload(trial: Trial) -> None:
    """Checksum and segmentation switches of Xen guests, vifs and uplinks: which do anything."""
    inside = Rows(("vm1", "its vif", "vm2's vif", "vm2"))
    for version in (4, 6):
        with trial.arm(f"defaults/ipv{version}", "control: offloads as they come") as arm:
            crossing = cross(trial, arm, *GUESTS, version, with_ping=False)
            check_passes(arm, crossing, finished=False)
            inside.add(f"defaults, IPv{version}", crossing)
    for version in (4, 6):
        with trial.arm(f"guest tx off/ipv{version}", "ethtool -K tx off in both guests") as arm:
            crossing = _guest_tx_off(trial, arm, version)
            inside.add(f"guest tx off, IPv{version}", crossing)
    with trial.arm("vif tx off/ipv4", "ethtool -K tx off on the receiver's vif in dom0") as arm:
        crossing = _vif_tx_off(trial, arm)
        inside.add("vm2's vif tx off, IPv4", crossing)
        inside.add("  the answer, vm2 to vm1", crossing, answer=True)
    for version in (4, 6):
        what = "tc … action csum in both guests, TSO and GSO off"
        with trial.arm(f"guest tc csum/ipv{version}", what) as arm:
            crossing = _guest_tc_csum(trial, arm, version)
            inside.add(f"guest tc csum, IPv{version}", crossing)
    outside = Rows(("vm1", "its vif", "dom0's NIC", "the NIC's TAP", "vm3's TAP", "vm3"))
    for model, interface in (("virtio", "eth0"), ("e1000", "eth1")):
        with trial.arm(f"uplink {model}/ipv4", f"to vm3, the Xen host's NIC is {model}") as arm:
            crossing = _uplink(trial, arm, model, interface)
            outside.add(f"uplink {model}, IPv4", crossing)
            outside.add("  the answer, vm3 to vm1", crossing, answer=True)
    told = super_frames(trial)
    if len(inside.rows) == 8 and len(outside.rows) == 4 and told:
        trial.story += _story(inside, outside, told)
    else:
        trial.notes.append("an arm did not come to its end, so there is no story to tell")


def _guest_tx_off(trial: Trial, arm: Arm, version: int) -> Crossing:
    """Ask both guests to finish their sums: netfront does for IPv6, and will not for IPv4."""
    with contextlib.ExitStack() as stack:
        for name in GUESTS:
            node = trial.lab.node(name)
            said = stack.enter_context(_asked(node))
            told = [line for line in said.splitlines() if line.startswith("tx-checksum-ipv4")]
            answer = told[0] if told else "ethtool does not speak of tx-checksum-ipv4"
            arm.check(f"{name}: ethtool -K eth0 tx off", ASKED, answer, answer == ASKED)
            now = node.features()
            check_in_effect(arm, f"{name} tx-checksum-ipv4", True, now["tx-checksum-ipv4"].active)
            check_in_effect(arm, f"{name} tx-checksum-ipv6", False, now["tx-checksum-ipv6"].active)
        crossing = cross(trial, arm, *GUESTS, version, with_ping=False)
    check_passes(arm, crossing, finished=version == 6)
    return crossing


@contextlib.contextmanager
def _asked(node: Node) -> Iterator[str]:
    """Ask a guest for `tx off` for the length of a `with` block; gives what ethtool says of it."""
    before = node.features()
    try:
        yield node.run("ethtool -K eth0 tx off").stdout
    finally:
        node.restore_features(before)


def _vif_tx_off(trial: Trial, arm: Arm) -> Crossing:
    """Let dom0 finish what goes to vm2, and only that."""
    vif = trial.lab.node("vm2").interface().tap
    with trial.lab.tap_offload(vif, OFF) as now:
        for feature in ("tx-checksum-ipv4", "tx-checksum-ipv6"):
            check_in_effect(arm, f"{vif} {feature}", False, now[feature].active)
        crossing = cross(trial, arm, *GUESTS, 4, with_ping=False)
    _check_arrived(arm, crossing)
    expected = f"partial with needs_csum in vm1 and at its vif, valid from {vif} on"
    for wanted in (crossing.syn, crossing.datagram):
        expectation = until("vm1-eth0", crossing.path, FINISHED)
        check_states(arm, crossing.steps(wanted), wanted, expected, expectation)
    # Nobody has touched vm1's vif, so the answer is as in the control.
    unfinished = everywhere(Checksum.PARTIAL, Metadata.NEEDS_CSUM)
    steps = crossing.steps(crossing.syn_ack)
    check_states(arm, steps, crossing.syn_ack, "partial with needs_csum at every hop", unfinished)
    return crossing


def _guest_tc_csum(trial: Trial, arm: Arm, version: int) -> Crossing:
    """Let traffic control finish the sums in both guests; see it at work, and gone after."""
    nodes = [trial.lab.node(name) for name in GUESTS]
    with contextlib.ExitStack() as stack:
        for node in nodes:
            stack.enter_context(finishing(node))
        crossing = cross(trial, arm, *GUESTS, version, with_ping=False)
        for node in nodes:
            _check_at_work(arm, node)
    for node in nodes:
        left = "clsact" in node.run("tc qdisc show dev eth0").stdout
        arm.check(
            f"{node.name}'s csum action, after", "gone", "there" if left else "gone", not left
        )
    check_passes(arm, crossing, finished=True)
    return crossing


def _check_at_work(arm: Arm, node: Node) -> None:
    """Check that a guest's csum action has seen packets; what tc does not count tells nothing."""
    said = node.run("tc -s filter show dev eth0 egress").stdout
    match = re.search(r"Sent \d{1,18} bytes (\d{1,18}) pkt", said)
    observed = f"{match[1]} packets" if match else "tc tells no count of packets"
    passed = int(match[1]) > 0 if match else None
    arm.check(f"{node.name}'s csum action", "at work", observed, passed)


def _uplink(trial: Trial, arm: Arm, model: str, interface: str) -> Crossing:
    """Talk to vm3 over one of the Xen host's two NICs: virtio carries the note, e1000 cannot."""
    driver = {"virtio": "virtio_net", "e1000": "e1000"}[model]
    path = f"/sys/class/net/{interface}/device/driver"
    found = trial.lab.node("xen1").run(f"basename $(readlink {path})").stdout.strip()
    arm.check(f"driver of xen1's {interface}", driver, found, found == driver)
    tap = f"xen1-{interface}"
    active = trial.lab.tap_features(tap)["tx-checksum-ip-generic"].active
    check_in_effect(arm, f"{tap} tx-checksum-ip-generic", model == "virtio", active)
    crossing = cross(trial, arm, "vm1", "vm3", 4, interface=interface, with_ping=False)
    if model == "virtio":
        check_passes(arm, crossing, finished=False)
        return crossing
    _check_arrived(arm, crossing)
    last = f"xen1:{interface}"
    expected = f"partial with needs_csum as far as {last}, valid from {tap} on"
    for wanted in (crossing.syn, crossing.datagram):
        expectation = until(last, crossing.path, FINISHED)
        check_states(arm, crossing.steps(wanted), wanted, expected, expectation)
    # The other way the lab's kernel finishes: QEMU has told it that this TAP cannot take a note.
    last = f"vm3-{interface}"
    expected = f"partial with needs_csum as far as {last}, valid from {tap} on"
    expectation = until(last, crossing.path[::-1], FINISHED)
    steps = crossing.steps(crossing.syn_ack)
    check_states(arm, steps, crossing.syn_ack, expected, expectation)
    return crossing


def _check_arrived(arm: Arm, crossing: Crossing) -> None:
    check_answer(arm, "ssh", crossing.ssh, works=True)
    check_answer(arm, "udp", crossing.udp, works=True)
    check_no_errors(arm, crossing)


def _story(inside: Rows, outside: Rows, told: list[str]) -> list[str]:
    """Tell which switch does what to somebody who meets them for the first time."""
    return [
        "vm1 ── vm1-eth0 ── lan ── vm2-eth0 ── vm2            (all but the guests: dom0)",
        "",
        "The first packet of SSH at each hop. Partial: only the pseudo-header is summed, and the",
        "note needs_csum is with it; valid: somebody has finished the sum.",
        "",
        *inside.lines,
        "",
        "`ethtool -K eth0 tx off` in a guest. For IPv4 ethtool answers `on [requested off]`:",
        "netfront keeps NETIF_F_IP_CSUM on, for it is not among the features that it lets be",
        "changed (hw_features, in xennet_create_dev). Asked again, `ethtool -k` says `on [fixed]`.",
        "So nothing happens to IPv4, and SSH works before and after for the same reason. IPv6 can",
        "be changed, and then the guest's kernel does finish the sum (skb_checksum_help).",
        "",
        "`ethtool -K vm2-eth0 tx off` in dom0. The vif takes no note any more, so dom0's kernel",
        "finishes the sum as it hands the packet to it (validate_xmit_skb). That holds for what",
        "goes to vm2; the answer takes the way over vm1's vif and is as partial as before.",
        "",
        "`tc … egress … action csum` in a guest. Traffic control sums the packet up before the",
        "driver gets it (tcf_csum_act), and clears the note: valid from the guest's own hop on,",
        "for both IP versions. TSO and GSO must be off, for it passes super-frames on as they are.",
        "",
        "vm1 ── vm1-ethN ── dom0's bridge ── xen1:ethN ── xen1-ethN ── vm3-ethN ── vm3",
        "",
        *outside.lines,
        "",
        "The uplink. dom0's virtio NIC has a header for the note, so it leaves the Xen host. An",
        "e1000 has not: dom0 gives it the packet with the order to finish it (e1000_tx_csum), and",
        "the emulated NIC does, as a real one would. The other way the lab's own kernel finishes,",
        "for QEMU has told it that a TAP before an e1000 takes nothing unfinished.",
        "",
        *told,
    ]
