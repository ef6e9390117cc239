"""A router between two guests: why SSH hangs behind one that forwards packets as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from labctl.experiments.crossing import Crossing, check_answer, check_passes, cross
from labctl.experiments.evidence import Step, check_states, culprit, until
from labctl.experiments.finishing import finishing
from labctl.experiments.model import experiment
from labctl.experiments.story import table
from labctl.experiments.trial import Arm, Trial
from labctl.kinds import registry
from labctl.kinds.base import Effect
from labctl.kinds.forwarders.namespace import Namespace
from labctl.kinds.forwarders.raw import Raw
from labctl.kinds.forwarders.raw_vnet import RawVnet
from labctl.packet.checksum import Checksum, Metadata

Found = dict[str, dict[int, Crossing]]
"""Crossings by what was between the guests, then by IP version."""
KINDS = {
    Namespace.name: "control: the kernel forwards",
    Raw.name: "a program copies packets, metadata lost",
    RawVnet.name: "the same program, virtio header kept",
}
"""The kinds of router that are compared, with what each shows."""


@experiment(
    "router-hop",
    topology="router-hop.yaml",
    hypothesis="SSH hangs behind a router that copies packets as they are, because the copy loses "
    "needs_csum: nobody finishes the checksum and the receiving kernel drops the packet.",
)
def router_hop(trial: Trial) -> None:
    """A router that copies packets: SSH hangs, ping works; names the hop and proves the cause."""
    found = cross_each(trial, cure="tx-off", what="checksum offload off in both guests")
    if complete(found):
        trial.story += _story(found)
    else:
        trial.notes.append("an arm did not come to its end, so there is no story to tell")


def cross_each(trial: Trial, *, cure: str, what: str) -> Found:
    """Cross r1 as each kind, and as the one that copies with guests that finish their sums."""
    found: Found = {}
    r1 = trial.lab.router("r1")
    copying = Raw.name
    for version in (4, 6):
        ip = f"ipv{version}"
        for kind, words in KINDS.items():
            with trial.arm(f"{kind}/{ip}", words) as arm:
                r1.set_kind(kind)
                crossing = cross(trial, arm, "vm1", "vm2", version)
                found.setdefault(kind, {})[version] = crossing
                if loses(kind):
                    check_broken(arm, crossing)
                else:
                    check_passes(arm, crossing, finished=False)
        with (
            trial.arm(f"{copying} {cure}/{ip}", f"{copying}, {what}") as arm,
            contextlib.ExitStack() as stack,
        ):
            r1.set_kind(copying)
            for name in ("vm1", "vm2"):
                stack.enter_context(finishing(trial.lab.node(name)))
            crossing = cross(trial, arm, "vm1", "vm2", version)
            found.setdefault(f"{copying}, {cure}", {})[version] = crossing
            check_passes(arm, crossing, finished=True)
    return found


def loses(kind: str) -> bool:
    """Whether a router of this kind loses what is known of an unfinished checksum."""
    return registry.forwarder(kind).effect is Effect.LOSES


def complete(found: Found) -> bool:
    """Whether every arm came to its end."""
    return [len(one) for one in found.values()] == [2] * 4


def check_broken(arm: Arm, crossing: Crossing) -> None:
    """Check the failure and every link of its cause: one copying router lost the metadata."""
    check_answer(arm, "ssh", crossing.ssh, works=False)
    lost = [crossing.syn]
    if crossing.ping:
        check_answer(arm, "ping", crossing.ping, works=True)
    if crossing.udp:
        check_answer(arm, "udp", crossing.udp, works=False)
        lost.append(crossing.datagram)
    into, out = (hop for hop in crossing.path if hop.in_router)
    blamed = f"router {into.element} ({into.link} to {out.link})"
    for wanted in lost:
        steps = crossing.steps(wanted)
        check_states(
            arm,
            steps,
            wanted,
            f"partial everywhere; needs_csum up to {into.name}, none after it",
            until(into.name, crossing.path, (Checksum.PARTIAL, Metadata.NONE)),
        )
        _check_culprit(arm, f"metadata lost, {wanted.kind}", blamed, steps)
    _check_counters(arm, crossing)
    _check_reasons(arm, crossing)


def _check_culprit(arm: Arm, name: str, blamed: str, steps: Sequence[Step]) -> None:
    """Check where a packet lost its metadata; a hop that missed something may have been the one."""
    where = culprit(steps)
    blind = [step.hop.name for step in steps if step.seen is None and not step.complete]
    if where != blamed and blind:
        observed = f"the capture is not complete at {', '.join(blind)}"
        arm.check(name, blamed, observed, None)
        return
    arm.check(name, blamed, where or "not lost anywhere", where == blamed)


def _check_counters(arm: Arm, crossing: Crossing) -> None:
    assert crossing.ssh is not None
    grown = crossing.ssh.grown(crossing.destination, "TcpInCsumErrors")
    arm.check(
        f"TcpInCsumErrors at {crossing.destination}",
        "grows while SSH waits",
        f"grew by {grown}",
        None if crossing.ssh.works is None else grown > 0,
    )


def _check_reasons(arm: Arm, crossing: Crossing) -> None:
    victim = crossing.destination
    name, expected = f"drop reason at {victim}", "the kernel drops the SYNs for TCP_CSUM"
    drops = crossing.drops.get(victim, ())
    reasons = sorted({drop.reason for drop in drops if drop.reason})
    if why_not := crossing.no_drops.get(victim):
        arm.skip(name, expected, why_not)
    elif drops and not reasons:
        arm.skip(name, expected, "the guest's kernel gives no reasons (before 5.17)")
    else:
        arm.check(
            name,
            expected,
            ", ".join(reasons) or "no drop seen",
            "TCP_CSUM" in reasons,
            evidence=[f"{drop.reason} at {drop.location}" for drop in drops[:4]],
        )


def lost_at(found: Found) -> str:
    """Name the place where the copying router lost the metadata of the first packet."""
    copied = found[Raw.name][4]
    return culprit(copied.steps(copied.syn)) or "nowhere in this run"


def tables(found: Found) -> list[str]:
    """Show the first packet at every hop, a column an arm."""
    lines = []
    for version in (4, 6):
        lines += [f"The first packet of SSH (SYN) from vm1 to vm2, IPv{version}:", ""]
        lines += table(
            {name: (one[version].steps(one[version].syn), one[version].ssh)
             for name, one in found.items()}
        )  # fmt: skip
        lines.append("")
    return lines


def _story(found: Found) -> list[str]:
    """Tell it to somebody who meets it for the first time."""
    lines = ["vm1 ── left ── r1 ── right ── vm2", "", *tables(found)]
    lines += [
        "What happens. To save work the sender's kernel leaves a checksum unfinished: the field",
        "holds only the sum of the pseudo-header (partial), and beside the packet, not in it,",
        "travels the note needs_csum: whoever puts this on a wire must finish it. Bridges and the",
        "kernel's own forwarding pass the note on, so the receiver knows all is well.",
        "",
        f"Where the knowledge was lost: {lost_at(found)}. A program that copies bytes from",
        "one packet socket to another copies the field but not the note. The packet goes on with a",
        "sum that nobody will finish; vm2 takes it for damage and drops it (TcpInCsumErrors grows,",
        "the kernel gives TCP_CSUM as its reason). tcpdump shows the same bytes at vm2 whether the",
        "packet will live or die. Ping works because ICMP is summed in software from the start.",
        "",
        f"What proves it. {RawVnet.name} is the same program with one socket option more",
        "(PACKET_VNET_HDR), so that the note is copied too: SSH works, and no byte of the packet",
        "differs. With `ethtool -K eth0 tx off` in both guests there is nothing left to finish and",
        "the copying router does no harm; in one guest it would only move the loss to the other.",
    ]
    return lines
