"""Both observers on real links: what they see, that they see the same, and that they end well."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest
from labctl.capture.drops import grown, parse_counters
from labctl.capture.judge import Checksum, Metadata
from labctl.capture.session import (
    Capture,
    CaptureError,
    Point,
    guest_point,
    host_point,
)
from labctl.world.deadline import Deadline
from labctl.world.netns import inside
from netlab import (
    bridge,
    configure,
    connects,
    counters,
    host,
    isolated,
    namespace,
    set_tx_checksum,
    tcp_server,
)
from pyroute2 import IPRoute

pytestmark = pytest.mark.integration


def deadline() -> Deadline:
    return Deadline(20, "capture")


def perl_point(hop: str, iface: str) -> Point:
    return guest_point(hop, iface, ["sh", "-c"])  # a shell reads the command, as with ssh


def two_hosts() -> None:
    bridge("br0")
    host("a", "br0", "10.0.0.1/24", "fd00::1/64")
    host("b", "br0", "10.0.0.2/24", "fd00::2/64")


@isolated
@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2"])
@pytest.mark.parametrize("offload", [True, False])
def test_a_handshake_shows_its_offload_at_every_hop(
    tmp_path: Path, address: str, offload: bool
) -> None:
    two_hosts()
    if not offload:
        inside("a", set_tx_checksum, "eth0", False)
        inside("b", set_tx_checksum, "eth0", False)
    points = [
        host_point("a", "eth0", netns="a"),
        host_point("a-port", "a-port"),
        perl_point("b-port", "b-port"),
        host_point("b", "eth0", netns="b"),
    ]
    before = parse_counters(counters("b"))
    with tcp_server("b", address), Capture(points, tmp_path, deadline=deadline()) as capture:
        assert connects("a", address)
        evidence = capture.stop(deadline())
    assert [hop.hop for hop in evidence.hops] == ["a", "a-port", "b-port", "b"]
    wanted = (Checksum.PARTIAL, Metadata.NEEDS_CSUM) if offload else (Checksum.VALID, Metadata.NONE)
    for hop in evidence.hops:
        assert hop.complete, hop.note
        ends = {"SYN": ("a-port", "b"), "SYN-ACK": ("a", "b-port")}
        for kind, arrives_at in ends.items():
            arrives = hop.hop in arrives_at
            (seen,) = (s for s in hop.sightings if s.judgement.kind == kind)
            assert (seen.judgement.state, seen.judgement.metadata) == wanted
            assert seen.direction == ("in" if arrives else "out")
    assert grown(before, parse_counters(counters("b"))) == {}


@isolated
def test_both_observers_write_the_same_records(tmp_path: Path) -> None:
    two_hosts()
    points = [host_point("python", "a-port"), perl_point("perl", "a-port")]
    with tcp_server("b", "10.0.0.2"), Capture(points, tmp_path, deadline=deadline()) as capture:
        assert connects("a", "10.0.0.2")
        inside("a", bulk, "10.0.0.2")
        inside("a", tagged)
        evidence = capture.stop(deadline())
    python, perl = evidence["python"], evidence["perl"]
    assert python.header is not None
    assert perl.header is not None
    assert (python.header.observer, perl.header.observer) == ("python", "perl")
    assert python.header.kernel == perl.header.kernel
    assert (python.header.mtu, python.header.ifindex) == (perl.header.mtu, perl.header.ifindex)
    facts = [
        [
            (r.pkttype, r.ifindex, r.status, r.original_length, r.vnet, r.frame)
            for r in (s.record for s in hop.sightings)
        ]
        for hop in (python, perl)
    ]
    assert facts[0] == facts[1]
    assert any(s.judgement.gso == "tcpv4" for s in perl.sightings)  # super-frames were among them
    assert any(s.judgement.packet.vlan == (7,) for s in perl.sightings)
    for one, other in zip(python.sightings, perl.sightings, strict=True):
        assert abs(one.time_ns - other.time_ns) < 1_000_000_000


def bulk(address: str) -> None:
    with socket.create_connection((address, 22)) as sock, sock.makefile("rb") as file:
        file.read(5)
        with contextlib.suppress(OSError):  # the server closes early; the super-frames are sent
            sock.sendall(b"x" * 300_000)


def tagged() -> None:
    """Send a tagged frame: the receiving side's kernel takes the tag out of the bytes."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0))
        sock.send(b"\xff" * 6 + b"\2" * 6 + b"\x81\0\0\7\x88\xb5" + bytes(60))


@isolated
@pytest.mark.parametrize("make", [host_point, perl_point])
def test_nothing_sent_before_the_stop_is_lost(tmp_path: Path, make: object) -> None:
    assert callable(make)
    namespace("x")
    with IPRoute() as ipr:
        ipr.link("add", ifname="v0", kind="veth", peer={"ifname": "v1", "net_ns_fd": "x"})
    configure("v0", ())
    inside("x", configure, "v1", ())
    count = 3000
    with Capture([make("v0", "v0")], tmp_path, deadline=deadline()) as capture:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("v0", 0))
            for number in range(count):
                sock.send(b"\2" * 12 + b"\x88\xb5" + number.to_bytes(4, "big") + bytes(60))
        (hop,) = capture.stop(deadline()).hops  # at once: the queue is still full
    assert hop.complete
    numbers = [
        int.from_bytes(s.record.frame[14:18], "big")
        for s in hop.sightings
        if s.record.frame[12:14] == b"\x88\xb5"
    ]
    assert numbers == list(range(count))


@isolated
@pytest.mark.parametrize("make", [host_point, perl_point])
def test_a_missing_interface_is_told_by_name(tmp_path: Path, make: object) -> None:
    assert callable(make)
    with (
        pytest.raises(CaptureError, match=r"cannot observe at tap: cannot observe nope: .*device"),
        Capture([make("tap", "nope")], tmp_path, deadline=deadline()),
    ):
        pass


@isolated
def test_an_interface_that_goes_away_leaves_what_was_seen(tmp_path: Path) -> None:
    two_hosts()
    with (
        tcp_server("b", "10.0.0.2"),
        Capture([host_point("a-port", "a-port")], tmp_path, deadline=deadline()) as capture,
    ):
        assert connects("a", "10.0.0.2")
        with IPRoute() as ipr:
            ipr.link("del", index=ipr.link_lookup(ifname="a-port")[0])
        (hop,) = capture.stop(deadline()).hops
    assert not hop.cut
    assert hop.trailer is not None
    assert hop.trailer.errors >= 1
    assert not hop.complete
    assert "SYN" in [s.judgement.kind for s in hop.sightings]
