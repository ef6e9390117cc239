"""Both observers on real links: what they see, that they see the same, and that they end well."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest
from netlab import (
    bridge,
    carries,
    configure,
    connects,
    counters,
    host,
    isolated,
    namespace,
    run,
    set_tx_checksum,
    tcp_server,
)
from pyroute2 import IPRoute

from labctl.capture.counters import grown, parse_counters
from labctl.capture.point import Point, guest_point, host_point
from labctl.capture.session import Capture, HopEvidence
from labctl.capture.spawn import CaptureError
from labctl.kinds.observers.stream import read_stream
from labctl.packet.checksum import Checksum, Judgement, Metadata
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.netns import inside

pytestmark = pytest.mark.integration


PATIENCE = 30.0
"""Seconds for what must work: on a busy machine a connection may need its repetitions."""


def deadline() -> Deadline:
    return Deadline(60, "capture")


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
        assert connects("a", address, timeout=PATIENCE)
        evidence = capture.stop(deadline())
    assert [hop.hop for hop in evidence.hops] == ["a", "a-port", "b-port", "b"]
    wanted = (Checksum.PARTIAL, Metadata.NEEDS_CSUM) if offload else (Checksum.VALID, Metadata.NONE)
    for hop in evidence.hops:
        assert hop.complete, hop.note
        ends = {"SYN": ("a-port", "b"), "SYN-ACK": ("a", "b-port")}
        for kind, arrives_at in ends.items():
            arrives = hop.hop in arrives_at
            seen = [s for s in hop.observations if s.judgement.kind == kind]
            assert {(s.judgement.state, s.judgement.metadata) for s in seen} == {wanted}
            assert {s.direction for s in seen} == {"in" if arrives else "out"}
    assert grown(before, parse_counters(counters("b"))) == {}


@isolated
def test_both_observers_write_the_same_records(tmp_path: Path) -> None:
    two_hosts()
    points = [host_point("python", "a-port"), perl_point("perl", "a-port")]
    with tcp_server("b", "10.0.0.2"), Capture(points, tmp_path, deadline=deadline()) as capture:
        inside("a", send_frame, MARK)
        assert connects("a", "10.0.0.2", timeout=PATIENCE)
        inside("a", bulk, "10.0.0.2")
        inside("a", send_frame, TAGGED)
        inside("a", send_frame, MARK)
        evidence = capture.stop(deadline())
    python, perl = evidence["python"], evidence["perl"]
    assert python.header is not None
    assert perl.header is not None
    assert (python.header.observer, perl.header.observer) == ("python", "perl")
    assert python.header.kernel == perl.header.kernel
    assert (python.header.mtu, python.header.ifindex) == (perl.header.mtu, perl.header.ifindex)
    for hop in (python, perl):
        assert hop.header is not None
        assert hop.trailer is not None
        for seen in hop.observations:
            assert hop.header.clock_ns < seen.time_ns < hop.trailer.clock_ns
    facts = [between_marks(hop) for hop in (python, perl)]
    assert facts[0] == facts[1]
    assert any(
        s.judgement.gso == "tcpv4" for s in perl.observations
    )  # super-frames were among them
    assert any(s.judgement.packet.vlan == (7,) for s in perl.observations)


def between_marks(hop: HopEvidence) -> list[tuple[object, ...]]:
    """What was seen between two frames of ours: each observer begins and ends in its own time."""
    seen = [s.record for s in hop.observations]
    first, last = (n for n, record in enumerate(seen) if record.frame == MARK)
    return [
        (r.pkttype, r.ifindex, r.status, r.original_length, r.vnet, r.frame)
        for r in seen[first : last + 1]
    ]


def bulk(address: str) -> None:
    with socket.create_connection((address, 22)) as sock, sock.makefile("rb") as file:
        file.read(5)
        with contextlib.suppress(OSError):  # the server closes early; the super-frames are sent
            sock.sendall(b"x" * 300_000)


def flood(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(200):
            sock.sendto(bytes(1000), (address, 9))


MARK = b"\xff" * 6 + b"\2" * 6 + b"\x88\xb5" + bytes(60)
TAGGED = MARK[:12] + b"\x81\0\0\7" + MARK[12:]
"""The receiving side's kernel takes the tag out of the bytes."""


def send_frame(frame: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0))
        sock.send(frame)


@isolated
@pytest.mark.parametrize("make", [host_point, perl_point])
def test_nothing_sent_before_the_stop_is_lost(tmp_path: Path, make: object) -> None:
    assert callable(make)
    namespace("x")
    with IPRoute() as ipr:
        ipr.link("add", ifname="v0", kind="veth", peer={"ifname": "v1", "net_ns_fd": "x"})
    configure("v0", ())
    inside("x", configure, "v1", ())
    carries("v0")
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
        for s in hop.observations
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
        assert connects("a", "10.0.0.2", timeout=PATIENCE)
        with IPRoute() as ipr:
            ipr.link("del", index=ipr.link_lookup(ifname="a-port")[0])
        (hop,) = capture.stop(deadline()).hops
    assert not hop.cut
    assert hop.trailer is not None
    assert hop.trailer.errors >= 1
    assert not hop.complete
    assert "SYN" in [s.judgement.kind for s in hop.observations]


@isolated
@pytest.mark.parametrize("make", [host_point, perl_point])
def test_a_killed_observer_leaves_what_it_had_seen(tmp_path: Path, make: object) -> None:
    assert callable(make)
    two_hosts()
    points = [make("a-port", "a-port"), host_point("b-port", "b-port")]
    with tcp_server("b", "10.0.0.2"), Capture(points, tmp_path, deadline=deadline()) as capture:
        assert connects("a", "10.0.0.2", timeout=PATIENCE)
        settle = deadline()
        while "FIN" not in [seen.kind for seen in records(tmp_path / "00.capture")]:
            settle.pause(0.01)  # what it wrote survives it; what the kernel had queued does not
        for process in Path("/proc").glob("[0-9]*"):
            if b"a-port" in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        evidence = capture.stop(deadline())
    assert [hop.hop for hop in evidence.hops if hop.cut] == ["a-port"]
    assert "exited with" in evidence["a-port"].note
    assert {"SYN", "SYN-ACK"} <= {s.judgement.kind for s in evidence["a-port"].observations}
    assert evidence["b-port"].complete


def records(path: Path) -> list[Judgement]:
    return [record.classify() for record in read_stream(path).records]


@isolated
@pytest.mark.parametrize("make", [host_point, perl_point])
def test_a_full_disk_cuts_the_stream_and_is_told(tmp_path: Path, make: object) -> None:
    assert callable(make)
    two_hosts()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path))
    with (
        tcp_server("b", "10.0.0.2"),
        Capture([make("a-port", "a-port")], tmp_path, deadline=deadline()) as capture,
    ):
        assert connects("a", "10.0.0.2", timeout=PATIENCE)
        inside("a", flood, "10.0.0.2")
        (hop,) = capture.stop(deadline()).hops
    assert hop.cut
    assert "No space left" in hop.note
    assert "SYN" in [s.judgement.kind for s in hop.observations]
