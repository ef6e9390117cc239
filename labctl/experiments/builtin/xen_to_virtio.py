"""A Xen guest and a QEMU guest: the note crosses the border of two worlds, or is lost between."""

from __future__ import annotations

from labctl.experiments.builtin.router_hop import KINDS, check_broken, loses
from labctl.experiments.crossing import Crossing, check_answer, check_no_errors, check_passes, cross
from labctl.experiments.evidence import check_states, culprit, everywhere
from labctl.experiments.finishing import finishing
from labctl.experiments.model import experiment
from labctl.experiments.story import table
from labctl.experiments.trial import Arm, Trial
from labctl.kinds.forwarders.raw import Raw
from labctl.kinds.forwarders.raw_vnet import RawVnet
from labctl.packet.checksum import Checksum, Metadata

DIRECT = "direct"
FINISHED = f"{Raw.name} finished"


@experiment(
    "xen-to-virtio",
    topology="xen-to-virtio.yaml",
    hypothesis="An unfinished packet of a Xen guest reaches a QEMU guest as well as one of its own "
    "kind: each border translates the note. Only a router that copies packets loses it, as in "
    "either world alone.",
)
def xen_to_virtio(trial: Trial) -> None:
    """A Xen guest and a QEMU guest, through each kind of router: which one loses the note."""
    there: dict[str, dict[int, Crossing]] = {}
    back: dict[str, Crossing] = {}
    r1 = trial.lab.router("r1")
    for version in (4, 6):
        what = "control: no router, vm2 is on the other side of the uplink"
        with trial.arm(f"{DIRECT}/ipv{version}", what) as arm:
            crossing = cross(trial, arm, "vm1", "vm2", version)
            check_passes(arm, crossing, finished=False)
            there.setdefault(DIRECT, {})[version] = crossing
    for kind, what in KINDS.items():
        for version in (4, 6):
            with trial.arm(f"{kind}/ipv{version}", what) as arm:
                r1.set_kind(kind)
                crossing = cross(trial, arm, "vm1", "vm3", version)
                _check(arm, crossing, kind)
                there.setdefault(kind, {})[version] = crossing
        with trial.arm(f"{kind} back/ipv4", f"{what}; from the QEMU guest to the Xen guest") as arm:
            r1.set_kind(kind)
            crossing = cross(trial, arm, "vm3", "vm1", 4, with_ping=False, with_udp=False)
            _check(arm, crossing, kind)
            back[kind] = crossing
    what = f"{Raw.name}, but both guests finish their sums: tc's csum action in vm1, tx off in vm3"
    with trial.arm(f"{FINISHED}/ipv4", what) as arm:
        r1.set_kind(Raw.name)
        with finishing(trial.lab.node("vm1")), finishing(trial.lab.node("vm3")):
            crossing = cross(trial, arm, "vm1", "vm3", 4, with_ping=False)
        check_passes(arm, crossing, finished=True)
        there.setdefault(FINISHED, {})[4] = crossing
    if [len(one) for one in there.values()] == [2, 2, 2, 2, 1] and len(back) == 3:
        trial.story += _story(there, back)
    else:
        trial.notes.append("an arm did not come to its end, so there is no story to tell")


def _check(arm: Arm, crossing: Crossing, kind: str) -> None:
    """Check what a router of this kind must do to a crossing."""
    if loses(kind):
        check_broken(arm, crossing)
    elif crossing.udp:
        check_passes(arm, crossing, finished=False)
    else:
        check_answer(arm, "ssh", crossing.ssh, works=True)
        whole = everywhere(Checksum.PARTIAL, Metadata.NEEDS_CSUM)
        for wanted in (crossing.syn, crossing.syn_ack):
            expected = "partial with needs_csum at every hop"
            check_states(arm, crossing.steps(wanted), wanted, expected, whole)
        check_no_errors(arm, crossing)


def _story(there: dict[str, dict[int, Crossing]], back: dict[str, Crossing]) -> list[str]:
    """Tell it to somebody who meets it for the first time."""
    kept = RawVnet.name
    copied = there[Raw.name][4]
    lines = [
        "      Xen host xen1        │   uplink          the lab's own bridges",
        "vm1 ── vm1-eth0 ── xen1:eth0 ── xen1-eth0 ┬─ vm2-eth0 ── vm2",
        "                           │              └─ r1 ── vm3-eth0 ── vm3",
        "",
        "The first packet of SSH (SYN) from vm1, a Xen guest, to vm2, a QEMU guest, no router:",
        "",
        *_table({f"IPv{version}": there[DIRECT][version] for version in (4, 6)}),
        "",
    ]
    for version in (4, 6):
        lines += [
            f"From vm1, a Xen guest, to vm3, a QEMU guest, through r1, IPv{version}:",
            "",
            *_table({kind: there[kind][version] for kind in KINDS}),
            "",
        ]
    lines += ["The same through raw, with sums that both guests have finished, IPv4:", ""]
    lines += [*_table({FINISHED: there[FINISHED][4]}), ""]
    lines += ["The other way, from vm3 to vm1, IPv4:", "", *_table(dict(back)), ""]
    lines += [
        "What happens. The note that the sum is not finished crosses three borders. Out of vm1 it",
        "is XEN_NETTXF_csum_blank on the ring to dom0; out of the Xen host it is",
        "VIRTIO_NET_HDR_F_NEEDS_CSUM (virtio_net_hdr_from_skb in dom0, tun_get_user in the lab's",
        "kernel), and the same once more into the QEMU guest. Between them, in dom0 and in the",
        "lab's kernel, it is CHECKSUM_PARTIAL. Each translation is complete. So to the other guest",
        "the packet is as good as one of its own kind, and so is the answer.",
        "",
        f"Where the knowledge was lost with raw: {_where(copied)};",
        f"the other way: {_where(back[Raw.name])}.",
        "Not at the border of the two worlds: a program that copies bytes from one packet socket",
        "to another loses the note here as it does between two QEMU guests or two Xen guests. The",
        "kernel of the receiver, whichever it is, counts TcpInCsumErrors and drops the packet.",
        "Ping works because ICMP is summed in software from the start.",
        "",
        f"What proves it. {kept} is the same program with PACKET_VNET_HDR, so that the note is",
        "copied too: SSH works, and no byte of the packet differs. And without any router the same",
        "two kinds of guests talk to each other with the same unfinished sums. With sums that each",
        "guest has finished itself (by tc's csum action on Xen, by `ethtool -K eth0 tx off` on",
        "virtio) there is no note to lose, and the copying router does no harm.",
    ]
    return lines


def _table(columns: dict[str, Crossing]) -> list[str]:
    return table({name: (one.steps(one.syn), one.ssh) for name, one in columns.items()})


def _where(crossing: Crossing) -> str:
    return culprit(crossing.steps(crossing.syn)) or "nowhere in this run"
