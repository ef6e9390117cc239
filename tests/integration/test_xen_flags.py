"""The flags in the rings of a real Xen host, beside the packets captured at its vifs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from xenlive import XenLab, xen_lab

from labctl.capture.point import guest_point
from labctl.capture.session import Observation
from labctl.capture.spawn import Handle
from labctl.capture.xenflags import FlagsWatch, beside
from labctl.guests import ssh
from labctl.kinds.observers.xen_rings import FlagsEvidence, FlagsSeen
from labctl.packet.checksum import Checksum
from labctl.sandbox.base import Process
from labctl.sandbox.deadline import Deadline

pytestmark = pytest.mark.integration

VIFS = ("vm1-eth0", "vm2-eth0")
FOLLOWED = "grep -c xenvif /sys/kernel/tracing/enabled_functions || true"
BLANK = ("csum_blank", "data_validated")


@pytest.fixture(scope="module")
def lab() -> Iterator[XenLab]:
    with xen_lab("xen-bridged") as running:
        running.boot()
        running.start()
        yield running


def watch(lab: XenLab, place: str, folder: Path) -> FlagsWatch:
    def spawn(argv: Sequence[str], *, stdout: Path, stderr: Path, limit: int = 0) -> Handle:
        return Process.start(lab.sandbox.agent(), argv, stdout=stdout, stderr=stderr, limit=limit)

    return FlagsWatch(
        VIFS,
        ssh.command(lab.directory, place),
        folder / "flags.text",
        deadline=Deadline(120, "starting to look into the rings"),
        spawn=spawn,
    )


def observe(
    lab: XenLab, folder: Path, traffic: Callable[[], object]
) -> tuple[FlagsEvidence, tuple[tuple[Observation, FlagsSeen | None], ...]]:
    points = [guest_point(vif, vif, ssh.command(lab.directory, "xen1")) for vif in VIFS]
    with watch(lab, "xen1", folder) as flags, lab.capture(points, folder) as capture:
        traffic()
        evidence = capture.stop(Deadline(60, "stopping observers"))
        seen = flags.stop(Deadline(60, "stopping to look into the rings"))
    assert not seen.why_not, seen.why_not
    return seen, beside(evidence.observations(), seen.seen)


def told(
    pairs: Sequence[tuple[Observation, FlagsSeen | None]], kind: str
) -> dict[tuple[str, str], tuple[Checksum, tuple[str, ...]]]:
    """By vif and direction, the checksum and the flags of the one packet of a kind there."""
    found: dict[tuple[str, str], tuple[Checksum, tuple[str, ...]]] = {}
    for observation, flags in pairs:
        if observation.judgement.kind != kind:
            continue
        assert flags is not None, f"{kind} at {observation.hop} without flags"
        place = (observation.hop, flags.direction)
        assert place not in found, f"two of {kind} at {place}"
        found[place] = (observation.judgement.state, flags.names)
    return found


@pytest.mark.parametrize("address", ["10.0.1.2", "fd00:1::2"])
def test_flags_are_csum_blank_in_both_rings_and_not_for_a_ping(
    lab: XenLab, address: str, tmp_path: Path
) -> None:
    def traffic() -> None:
        lab.run("vm1", f"ping -c1 {address}")
        assert lab.run("vm1", f"ssh {address} uname -n").stdout == "vm2\n"

    flags, pairs = observe(lab, tmp_path, traffic)
    assert flags.complete, flags.note
    there = (("vm1-eth0", "tx"), ("vm2-eth0", "rx"))
    back = (("vm2-eth0", "tx"), ("vm1-eth0", "rx"))
    partial = (Checksum.PARTIAL, BLANK)
    assert told(pairs, "SYN") == dict.fromkeys(there, partial)
    assert told(pairs, "SYN-ACK") == dict.fromkeys(back, partial)
    pings = [
        (observation, seen)
        for observation, seen in pairs
        if observation.judgement.kind.startswith("ICMP") and "echo" in observation.judgement.kind
    ]
    assert len(pings) == 4
    for observation, seen in pings:
        assert seen is not None
        assert (seen.names, observation.judgement.state) == ((), Checksum.VALID)


def test_a_vif_without_offload_lets_no_flag_through(lab: XenLab, tmp_path: Path) -> None:
    lab.run("xen1", "ethtool -K vm2-eth0 tx off")
    try:
        _, pairs = observe(lab, tmp_path, lambda: lab.run("vm1", "ssh 10.0.1.2 true"))
    finally:
        lab.run("xen1", "ethtool -K vm2-eth0 tx on")
    assert told(pairs, "SYN") == {
        ("vm1-eth0", "tx"): (Checksum.PARTIAL, BLANK),
        ("vm2-eth0", "rx"): (Checksum.VALID, ()),
    }


def test_segments_to_be_made_are_told_by_extra_info_and_none_is_missed(
    lab: XenLab, tmp_path: Path
) -> None:
    def traffic() -> None:
        lab.run("vm1", "head -c 300000 /dev/urandom | ssh 10.0.1.2 'cat > /dev/null'")

    flags, pairs = observe(lab, tmp_path, traffic)
    assert flags.complete, flags.note
    larger = [seen for observation, seen in pairs if observation.judgement.gso]
    assert larger
    assert all(seen is not None and seen.extra_info for seen in larger)
    assert [observation.judgement for observation, seen in pairs if seen is None] == []
    assert any(seen.size < len(observation.record.frame) for observation, seen in pairs if seen)


def test_nothing_is_left_of_the_tracing(lab: XenLab, tmp_path: Path) -> None:
    assert lab.run("xen1", FOLLOWED).stdout == "0\n"
    with watch(lab, "xen1", tmp_path) as flags:
        assert lab.run("xen1", FOLLOWED).stdout == "2\n"
        flags.stop(Deadline(60, "stopping to look into the rings"))
    assert lab.run("xen1", FOLLOWED).stdout == "0\n"


def test_a_kernel_without_netback_says_why_not(lab: XenLab, tmp_path: Path) -> None:
    with watch(lab, "vm1", tmp_path) as flags:
        evidence = flags.stop(Deadline(60, "stopping to look into the rings"))
    assert not evidence.seen
    assert "xenvif" in evidence.why_not
