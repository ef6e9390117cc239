"""Every offload setting people try between Xen guests: which ones do anything, and where."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from labctl.experiments.builtin.router_hop.experiment import IP
from labctl.experiments.builtin.xen_offload import gso
from labctl.experiments.evidence import Step
from labctl.experiments.expectations import check_traffic
from labctl.experiments.model import experiment
from labctl.experiments.run_context import Arm, Trial
from labctl.experiments.software_checksums import software_checksums
from labctl.experiments.text_tables import aligned
from labctl.experiments.traffic_run import TrafficRun, check_in_effect, run_traffic
from labctl.experiments.variants import Case
from labctl.kinds import registry
from labctl.kinds.nics.e1000 import E1000
from labctl.kinds.nics.virtio import Virtio
from labctl.lab.node import Node
from labctl.topology.expected import Ends, Expected

OFF = {"tx-checksumming": False}
ASKED = "tx-checksum-ipv4: on [requested off]"
GUESTS = ("vm1", "vm2")


@dataclass
class Rows:
    """The lines of one table of the story: a packet's state at each of the hops, SSH's fate."""

    heads: tuple[str, ...]
    rows: list[list[str]] = field(default_factory=list)

    def add(self, label: str, traffic: TrafficRun, *, answer: bool = False) -> None:
        """Add the SYN of a crossing, or its answer."""
        wanted = traffic.syn_ack if answer else traffic.syn
        steps = traffic.steps(wanted)
        if answer:
            steps = steps[::-1]  # in the columns' order
        outcome = traffic.ssh.text if traffic.ssh else ""
        self.rows.append([label, *(_short(step) for step in steps), "" if answer else outcome])

    @property
    def lines(self) -> list[str]:
        """The table as text."""
        return aligned([["", *self.heads, "SSH"], *self.rows])


def _short(step: Step) -> str:
    if step.seen is None:
        return "not seen" if step.complete else "unknown"
    judgement = step.seen.judgement
    return "partial, LOST" if judgement.lost else str(judgement.state)


def _defaults(trial: Trial, arm: Arm, version: int) -> TrafficRun:
    traffic = run_traffic(trial, arm, *GUESTS, version, with_ping=False)
    check_traffic(arm, traffic)
    return traffic


def _guest_tx_off(trial: Trial, arm: Arm, version: int) -> TrafficRun:
    """Ask both guests to complete their sums: netfront does for IPv6, and will not for IPv4."""
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
        traffic = run_traffic(trial, arm, *GUESTS, version, with_ping=False)
    check_traffic(arm, traffic, Ends(finished_by=GUESTS if version == 6 else ()))
    return traffic


@contextlib.contextmanager
def _asked(node: Node) -> Iterator[str]:
    """Ask a guest for `tx off` for the length of a `with` block; gives what ethtool says of it."""
    before = node.features()
    try:
        yield node.run("ethtool -K eth0 tx off").stdout
    finally:
        node.restore_features(before)


def _vif_tx_off(trial: Trial, arm: Arm, version: int) -> TrafficRun:
    """Let dom0 finish what goes to vm2, and only that: nobody touches vm1's vif."""
    vif = trial.lab.node("vm2").interface().tap
    with trial.lab.tap_offload(vif, OFF) as now:
        for feature in ("tx-checksum-ipv4", "tx-checksum-ipv6"):
            check_in_effect(arm, f"{vif} {feature}", False, now[feature].active)
        traffic = run_traffic(trial, arm, *GUESTS, version, with_ping=False)

    def words(expected: Expected) -> str:
        if not expected.changes:
            return expected.words
        return f"partial with needs_csum in vm1 and at its vif, valid from {vif} on"

    check_traffic(arm, traffic, Ends(completing=(vif,)), words=words)
    return traffic


def _guest_tc_csum(trial: Trial, arm: Arm, version: int) -> TrafficRun:
    """Let traffic control complete the sums in both guests; see it at work, and gone after."""
    nodes = [trial.lab.node(name) for name in GUESTS]
    with contextlib.ExitStack() as stack:
        for node in nodes:
            stack.enter_context(software_checksums(node))
        traffic = run_traffic(trial, arm, *GUESTS, version, with_ping=False)
        for node in nodes:
            _check_at_work(arm, node)
    for node in nodes:
        left = "clsact" in node.run("tc qdisc show dev eth0").stdout
        arm.check(
            f"{node.name}'s csum action, after", "gone", "there" if left else "gone", not left
        )
    check_traffic(arm, traffic, Ends(finished_by=GUESTS))
    return traffic


def _check_at_work(arm: Arm, node: Node) -> None:
    """Check that a guest's csum action has seen packets; what tc does not count tells nothing."""
    said = node.run("tc -s filter show dev eth0 egress").stdout
    match = re.search(r"Sent \d{1,18} bytes (\d{1,18}) pkt", said)
    observed = f"{match[1]} packets" if match else "tc tells no count of packets"
    passed = int(match[1]) > 0 if match else None
    arm.check(f"{node.name}'s csum action", "at work", observed, passed)


def _uplink(trial: Trial, arm: Arm, model: str, interface: str, version: int) -> TrafficRun:
    """Talk to vm3 over one of the Xen host's two NICs: virtio carries metadata, e1000 cannot."""
    nic = registry.nic(model)
    driver = nic.driver
    path = f"/sys/class/net/{interface}/device/driver"
    found = trial.lab.node("xen1").run(f"basename $(readlink {path})").stdout.strip()
    arm.check(f"driver of xen1's {interface}", driver, found, found == driver)
    tap = f"xen1-{interface}"
    active = trial.lab.tap_features(tap)["tx-checksum-ip-generic"].active
    check_in_effect(arm, f"{tap} tx-checksum-ip-generic", nic.takes_unfinished, active)
    traffic = run_traffic(trial, arm, "vm1", "vm3", version, interface=interface, with_ping=False)
    check_traffic(arm, traffic)
    return traffic


def _uplink_virtio(trial: Trial, arm: Arm, version: int) -> TrafficRun:
    return _uplink(trial, arm, Virtio.name, "eth0", version)


def _uplink_e1000(trial: Trial, arm: Arm, version: int) -> TrafficRun:
    return _uplink(trial, arm, E1000.name, "eth1", version)


def _story(found: Mapping[str, Any]) -> list[str]:
    """Tell which switch does what to somebody who meets them for the first time."""
    inside = Rows(("vm1", "its vif", "vm2's vif", "vm2"))
    for name in ("defaults", "guest tx off"):
        for ip, version in IP.items():
            inside.add(f"{name}, IPv{version}", found[f"{name}/{ip}"])
    inside.add("vm2's vif tx off, IPv4", found["vif tx off/ipv4"])
    inside.add("  the answer, vm2 to vm1", found["vif tx off/ipv4"], answer=True)
    for ip, version in IP.items():
        inside.add(f"guest tc csum, IPv{version}", found[f"guest tc csum/{ip}"])
    outside = Rows(("vm1", "its vif", "dom0's NIC", "the NIC's TAP", "vm3's TAP", "vm3"))
    for name in ("uplink virtio", "uplink e1000"):
        outside.add(f"{name}, IPv4", found[f"{name}/ipv4"])
        outside.add("  the answer, vm3 to vm1", found[f"{name}/ipv4"], answer=True)
    super_frames = {
        "TSO on": found["gso on/ipv4"],
        "TSO and GSO off": found["gso off/ipv4"],
        "put there by hand": found["gso unmarked/ipv4"],
    }
    return [
        "vm1 ── vm1-eth0 ── lan ── vm2-eth0 ── vm2            (all but the guests: dom0)",
        "",
        "The first packet of SSH at each hop. Partial: only the pseudo-header is summed, and the",
        "flag needs_csum is with it; valid: somebody has completed the sum.",
        "",
        *inside.lines,
        "",
        "`ethtool -K eth0 tx off` in a guest. For IPv4 ethtool answers `on [requested off]`:",
        "netfront keeps NETIF_F_IP_CSUM on, for it is not among the features that it lets be",
        "changed (hw_features, in xennet_create_dev). Asked again, `ethtool -k` says `on [fixed]`.",
        "So nothing happens to IPv4, and SSH works before and after for the same reason. IPv6 can",
        "be changed, and then the guest's kernel does complete the sum (skb_checksum_help).",
        "",
        "`ethtool -K vm2-eth0 tx off` in dom0. The vif takes no metadata any more, so dom0's",
        "kernel completes the sum as it hands the packet to it (validate_xmit_skb). That holds for",
        "what goes to vm2; the answer takes the way over vm1's vif and is as partial as before.",
        "",
        "`tc … egress … action csum` in a guest. Traffic control sums the packet up before the",
        "driver gets it (tcf_csum_act), and clears the metadata: valid from the guest's own hop",
        "on, for both IP versions. TSO and GSO must be off, for it passes super-frames on as they",
        "are.",
        "",
        "vm1 ── vm1-ethN ── dom0's bridge ── xen1:ethN ── xen1-ethN ── vm3-ethN ── vm3",
        "",
        *outside.lines,
        "",
        "The uplink. dom0's virtio NIC has a header for the metadata, so it leaves the Xen host.",
        "An e1000 has not: dom0 gives it the packet with the order to finish it (e1000_tx_csum),",
        "and the emulated NIC does, as a real one would. The other way the lab's own kernel",
        "finishes, for QEMU has told it that a TAP before an e1000 takes nothing unfinished.",
        "",
        *gso.told(super_frames),
    ]


@dataclass(frozen=True)
class Switch:
    """Something to turn, and what is done then."""

    what: str
    act: Callable[[Trial, Arm, int], Any]
    """Given the IP version; returns what the story tells of."""
    versions: tuple[int, ...] = (4,)


SWITCHES = {
    "defaults": Switch("control: offloads as they come", _defaults, (4, 6)),
    "guest tx off": Switch("ethtool -K tx off in both guests", _guest_tx_off, (4, 6)),
    "vif tx off": Switch("ethtool -K tx off on the receiver's vif in dom0", _vif_tx_off),
    "guest tc csum": Switch(
        "tc … action csum in both guests, TSO and GSO off", _guest_tc_csum, (4, 6)
    ),
    "uplink virtio": Switch("to vm3, the Xen host's NIC is virtio", _uplink_virtio),
    "uplink e1000": Switch("to vm3, the Xen host's NIC is e1000", _uplink_e1000),
    "gso on": Switch("a transfer with TSO and GSO as they come", gso.as_they_come),
    "gso off": Switch("control: the same transfer, TSO and GSO off in vm1", gso.turned_off),
    "gso unmarked": Switch(
        "a super-frame without needs_csum, its sum wrong, put on vm2's vif in dom0", gso.unmarked
    ),
}


@experiment(
    "xen-offload",
    topology="xen-offload.yaml",
    hypothesis="Between netfront and netback other switches complete a checksum than between "
    "virtio and a TAP: `tx off` in the guest does nothing for IPv4, tx off on the receiver's vif "
    "or traffic control in the guest does, and so does an uplink that is no virtio NIC.",
    variants={"switch": SWITCHES, "ip": IP},
    where=lambda case: case["ip"] in case["switch"].versions,
    describe=lambda case: str(case["switch"].what),
    story=_story,
)
def xen_offload(trial: Trial, arm: Arm, case: Case) -> Any:
    """Checksum and segmentation switches of Xen guests, vifs and uplinks: which do anything."""
    return case["switch"].act(trial, arm, case["ip"])
