"""A tunnel in a real guest: what Linux writes around a packet whose own sum is unfinished."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.capture import pcapng
from labctl.capture.counters import CHECKSUM_COUNTERS, grown
from labctl.capture.session import Evidence
from labctl.inspect.run import inspect
from labctl.lab.lab import Lab
from labctl.lab.watch import capture, counters
from labctl.packet.checksum import Checksum, Judgement, classify
from labctl.packet.tunnels import decapsulate
from labctl.pytest_plugin import LabFactory
from labctl.sandbox.deadline import Deadline
from labctl.topology.points import inside_guest
from labctl.tracing.flow import Flow, send_command

pytestmark = pytest.mark.integration

SOLO = """
name: tunnel
networks: {lan: {subnets: [10.0.1.0/24]}}
nodes: {vm1: {interfaces: [{network: lan, addresses: [10.0.1.1/24]}]}}
"""
# Through a veth, which leaves sums of tunnelled packets open where virtio's driver finishes them
# (kernel: netif_skb_features(), hw_enc_features).
VETH = """set -e
ip netns add far
ip link add near0 type veth peer name far0 netns far
ip addr add 198.51.100.1/24 dev near0; ip -n far addr add 198.51.100.2/24 dev far0
ip addr add 2001:db8::1/64 dev near0 nodad; ip -n far addr add 2001:db8::2/64 dev far0 nodad
ip link set near0 up; ip -n far link set far0 up
"""
TUNNEL = """set -e
ip link del vx0 2>/dev/null || true; ip -n far link del vx0 2>/dev/null || true
ip link add vx0 type vxlan id 7 dstport 4789 local {near} remote {far} {how}
ip -n far link add vx0 type vxlan id 7 dstport 4789 local {far} remote {near} {how}
ip addr add 192.0.2.1/24 dev vx0; ip -n far addr add 192.0.2.2/24 dev vx0
ip link set vx0 up; ip -n far link set vx0 up
"""
ENDS = {4: ("198.51.100.1", "198.51.100.2"), 6: ("2001:db8::1", "2001:db8::2")}
HELLO = f"ip netns exec far {send_command(Flow('tcp', 22, 4, '', '192.0.2.1'), 1, 20)}"


@pytest.fixture(scope="module")
def lab(lab_factory: LabFactory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    path = tmp_path_factory.mktemp("tunnel") / "tunnel.yaml"
    path.write_text(SOLO)
    with lab_factory(path) as lab:
        lab.node("vm1").run(VETH)
        yield lab


def talked(lab: Lab, version: int, how: str, folder: Path) -> Evidence:
    """Talk to the guest's ssh server through a tunnel; return what the veth under it showed."""
    vm1 = lab.node("vm1")
    near, far = ENDS[version]
    vm1.run(TUNNEL.format(near=near, far=far, how=how))
    before = counters(vm1)
    with capture(lab, [inside_guest("vm1", "near0")], folder) as seeing:
        assert "1 heard" in vm1.run(HELLO).stdout
        evidence = seeing.stop(Deadline(60, "ending the capture"))
    assert not grown(before, counters(vm1), CHECKSUM_COUNTERS), "its receiver takes every sum"
    return evidence


def outer(evidence: Evidence) -> list[Judgement]:
    """Return what was said of the packets that carry the connection, those not yet cut left out."""
    found = []
    for seen in evidence.observations(kind="UDP", dport=4789):
        inner = decapsulate(seen.record.frame, seen.judgement.packet)
        if inner and classify(inner.frame).packet.protocol == "tcp" and not seen.judgement.gso:
            found.append(seen.judgement)
    return found


@pytest.mark.parametrize("version", [4, 6])
def test_a_tunnels_sum_counts_on_the_packet_inside_and_accuses_nobody(
    lab: Lab, version: int, tmp_path: Path
) -> None:
    evidence = talked(lab, version, "udpcsum", tmp_path / "capture")  # the default over IPv6
    counting = [one for one in outer(evidence) if one.field != one.pseudo_sum]
    assert counting
    assert {one.describe() for one in counting} == {"UDP: partial, needs_csum"}
    pcapng.write(tmp_path / "seen.pcapng", evidence.hops)
    report = inspect(tmp_path / "seen.pcapng")
    assert not report.offenders[Checksum.BAD], report.meaning


def test_a_tunnel_over_ipv6_may_do_without_a_sum(lab: Lab, tmp_path: Path) -> None:
    evidence = talked(lab, 6, "udp6zerocsumtx udp6zerocsumrx", tmp_path / "capture")
    assert {one.state for one in outer(evidence)} == {Checksum.ABSENT}
    pcapng.write(tmp_path / "seen.pcapng", evidence.hops)
    report = inspect(tmp_path / "seen.pcapng")
    assert not report.offenders[Checksum.BAD], report.meaning
