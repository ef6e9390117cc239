"""A Xen guest and a QEMU guest: the metadata crosses between Xen and virtio, or is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from labctl.experiments.builtin.router_hop.experiment import IP, KINDS
from labctl.experiments.evidence import fault_location
from labctl.experiments.expectations import check_traffic
from labctl.experiments.model import experiment
from labctl.experiments.run_context import Arm, Trial
from labctl.experiments.software_checksums import software_checksums
from labctl.experiments.text_tables import table
from labctl.experiments.traffic_run import TrafficRun, run_traffic
from labctl.experiments.variants import Case
from labctl.kinds.forwarders.raw import Raw
from labctl.kinds.forwarders.raw_vnet import RawVnet
from labctl.topology.expected import Ends

DIRECT = "direct"
FINISHED = f"{Raw.name} finished"


@dataclass(frozen=True)
class Way:
    """A way between Xen and virtio."""

    what: str
    kind: str = ""
    """That of r1; empty where it is not on the way."""
    source: str = "vm1"
    destination: str = "vm3"
    versions: tuple[int, ...] = (4, 6)
    finished: bool = False
    """Whether both guests complete their checksums."""

    @property
    def back(self) -> bool:
        """Whether the QEMU guest opens the connection."""
        return self.source == "vm3"


def _ways() -> dict[str, Way]:
    what = "control: no router, vm2 is on the other side of the uplink"
    ways = {DIRECT: Way(what, destination="vm2")}
    for kind, words in KINDS.items():
        ways[kind] = Way(words, kind)
        opened = f"{words}; from the QEMU guest to the Xen guest"
        ways[f"{kind} back"] = Way(opened, kind, "vm3", "vm1", (4,))
    what = (
        f"{Raw.name}, but both guests complete their sums: tc's csum action in vm1, tx off in vm3"
    )
    ways[FINISHED] = Way(what, Raw.name, versions=(4,), finished=True)
    return ways


WAYS = _ways()


def _story(found: Mapping[str, TrafficRun]) -> list[str]:
    """Tell it to somebody who meets it for the first time."""
    kept = RawVnet.name
    copied = found[f"{Raw.name}/ipv4"]
    lines = [
        "      Xen host xen1        │   uplink          the lab's own bridges",
        "vm1 ── vm1-eth0 ── xen1:eth0 ── xen1-eth0 ┬─ vm2-eth0 ── vm2",
        "                           │              └─ r1 ── vm3-eth0 ── vm3",
        "",
        "The first packet of SSH (SYN) from vm1, a Xen guest, to vm2, a QEMU guest, no router:",
        "",
        *_table({f"IPv{version}": found[f"{DIRECT}/{ip}"] for ip, version in IP.items()}),
        "",
    ]
    for ip, version in IP.items():
        lines += [
            f"From vm1, a Xen guest, to vm3, a QEMU guest, through r1, IPv{version}:",
            "",
            *_table({kind: found[f"{kind}/{ip}"] for kind in KINDS}),
            "",
        ]
    lines += ["The same through raw, with sums that both guests have finished, IPv4:", ""]
    lines += [*_table({FINISHED: found[f"{FINISHED}/ipv4"]}), ""]
    back = {kind: found[f"{kind} back/ipv4"] for kind in KINDS}
    lines += ["The other way, from vm3 to vm1, IPv4:", "", *_table(back), ""]
    lines += [
        "What happens. The metadata (the sum is not finished) crosses three borders. Out of vm1",
        "it is XEN_NETTXF_csum_blank on the ring to dom0; out of the Xen host it is",
        "VIRTIO_NET_HDR_F_NEEDS_CSUM (virtio_net_hdr_from_skb in dom0, tun_get_user in the lab's",
        "kernel), and the same once more into the QEMU guest. Between them, in dom0 and in the",
        "lab's kernel, it is CHECKSUM_PARTIAL. Each translation is complete. So to the other guest",
        "the packet is as good as one of its own kind, and so is the answer.",
        "",
        f"Where the knowledge was lost with raw: {_where(copied)};",
        f"the other way: {_where(back[Raw.name])}.",
        "Not between Xen and virtio: a program that copies bytes from one packet socket",
        "to another loses the metadata here as it does between two QEMU guests or two Xen guests.",
        "The kernel of the receiver, whichever it is, counts TcpInCsumErrors and drops the packet.",
        "Ping works because ICMP is summed in software from the start.",
        "",
        f"What proves it. {kept} is the same program with PACKET_VNET_HDR, so that the metadata is",
        "copied too: SSH works, and no byte of the packet differs. And without any router the same",
        "two kinds of guests talk to each other with the same unfinished sums. With sums that each",
        "guest has finished itself (by tc's csum action on Xen, by `ethtool -K eth0 tx off` on",
        "virtio) there is no metadata to lose, and the copying router does no harm.",
    ]
    return lines


def _table(columns: dict[str, TrafficRun]) -> list[str]:
    return table({name: (one.steps(one.syn), one.ssh) for name, one in columns.items()})


def _where(traffic: TrafficRun) -> str:
    return fault_location(traffic.steps(traffic.syn)) or "nowhere in this run"


@experiment(
    "xen-to-virtio",
    topology="xen-to-virtio.yaml",
    hypothesis="An unfinished packet of a Xen guest reaches a QEMU guest as well as one of its own "
    "kind: each border translates the metadata. Only a router that copies packets loses it, as "
    "among Xen guests or QEMU guests alone.",
    variants={"way": WAYS, "ip": IP},
    where=lambda case: case["ip"] in case["way"].versions,
    describe=lambda case: str(case["way"].what),
    story=_story,
)
def xen_to_virtio(trial: Trial, arm: Arm, case: Case) -> TrafficRun:
    """A Xen guest and a QEMU guest, through each kind of router: which loses metadata."""
    way: Way = case["way"]
    ends = (way.source, way.destination)
    if way.kind:
        trial.lab.router("r1").set_kind(way.kind)
    with contextlib.ExitStack() as stack:
        for name in ends if way.finished else ():
            stack.enter_context(software_checksums(trial.lab.node(name)))
        traffic = run_traffic(
            trial, arm, *ends, case["ip"],
            with_ping=not (way.back or way.finished), with_udp=not way.back,
        )  # fmt: skip
    check_traffic(arm, traffic, Ends(finished_by=ends if way.finished else ()))
    return traffic
