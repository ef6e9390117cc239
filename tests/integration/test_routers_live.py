"""Routers between real links: what each kind lets through, and how the program fails."""

from __future__ import annotations

import json
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address as address_of
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest
from netlab import (
    bridge,
    configure,
    connects,
    counters,
    host,
    isolated,
    pings,
    set_tx_checksum,
    tcp_server,
)
from pyroute2 import IPRoute

from labctl.capture.counters import grown, parse_counters
from labctl.capture.point import host_point
from labctl.capture.session import Capture
from labctl.capture.spawn import Handle, start_process
from labctl.errors import HostError
from labctl.routers import namespace
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.netns import inside
from labctl.topology.model import Route, Router, RouterInterface

pytestmark = pytest.mark.integration
BRIDGES = {"eth0": "net1", "eth1": "net2"}
VM2 = {4: "10.0.2.2", 6: "fd00:2::2"}


def router(mtu: int = 1500) -> Router:
    def interface(number: int) -> RouterInterface:
        return RouterInterface(
            name=f"eth{number - 1}",
            network=f"net{number}",
            addresses=(ip_interface(f"10.0.{number}.1/24"), ip_interface(f"fd00:{number}::1/64")),
            mac=f"02:00:00:00:01:0{number}",
            mtu=mtu if number == 2 else 1500,
            peer=f"r1-net{number}",
        )

    routes = (Route(ip_network("10.9.0.0/16"), address_of("10.0.2.2")),)
    return Router("r1", "raw", (interface(1), interface(2)), routes)


def network(mtu: int = 1500) -> Router:
    """vm1 - net1 - r1 - net2 - vm2."""
    for number in (1, 2):
        bridge(f"net{number}")
        host(
            f"vm{number}",
            f"net{number}",
            f"10.0.{number}.2/24",
            f"fd00:{number}::2/64",
            gateways=(f"10.0.{number}.1", f"fd00:{number}::1"),
        )
    made = router(mtu)
    namespace.build(made, BRIDGES)
    return made


class Program:
    """The router program as a child process."""

    def __init__(self, handle: Handle, out: Path) -> None:
        self.handle, self.out = handle, out

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def await_line(self, count: int) -> dict[str, object]:
        deadline = Deadline(20, "the router program")
        while len(self.out.read_text().splitlines()) < count:
            assert self.handle.poll() is None, self.out.with_suffix(".err").read_text()
            deadline.pause(0.01)
        return self.lines()[count - 1]

    def counters(self) -> dict[str, int]:
        count = len(self.lines())
        self.handle.kill(signal.SIGUSR1)
        found = self.await_line(count + 1)["counters"]
        assert isinstance(found, dict)
        return found


@contextmanager
def program(directory: Path, *, vnet: bool = False) -> Iterator[Program]:
    out = directory / "raw.out"
    words = [sys.executable, "-m", "labctl.routers.raw", "--netns", "r1", "--until-eof"]
    words += ["--vnet"] * vnet + ["eth0", "eth1"]
    handle = start_process(words, stdout=out, stderr=out.with_suffix(".err"))
    running = Program(handle, out)
    assert running.await_line(1)["ready"] is True
    yield running
    assert handle.finish(Deadline(10, "ending the router program")) == 0


@contextmanager
def forwards(kind: str, made: Router, directory: Path) -> Iterator[None]:
    if kind == "namespace":
        namespace.set_forwarding(made, True)
        yield
        return
    with program(directory, vnet=kind == "raw-vnet"):
        yield


@isolated
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["namespace", "raw", "raw-vnet"])
def test_only_the_router_that_loses_the_metadata_breaks_tcp(
    tmp_path: Path, kind: str, version: int
) -> None:
    made = network()
    lost = kind == "raw"
    hops = [
        host_point("vm1", "eth0", netns="vm1"),
        host_point("r1 in", "eth0", netns="r1"),
        host_point("r1 out", "eth1", netns="r1"),
        host_point("vm2", "eth0", netns="vm2"),
    ]
    with forwards(kind, made, tmp_path), tcp_server("vm2", VM2[version]):
        assert pings("vm1", VM2[version])
        before = parse_counters(counters("vm2"))
        with Capture(hops, tmp_path / "c", deadline=Deadline(20, "capture")) as capture:
            assert connects("vm1", VM2[version]) is not lost
            evidence = capture.stop(Deadline(20, "capture"))
        growth = grown(before, parse_counters(counters("vm2")))
    assert bool(growth.get("TcpInCsumErrors")) is lost
    states = {
        hop.hop: {str(s.judgement.metadata) for s in hop.observations if s.judgement.kind == "SYN"}
        for hop in evidence.hops
    }
    after = {"none"} if lost else {"needs_csum"}
    assert states == {
        "vm1": {"needs_csum"},
        "r1 in": {"needs_csum"},
        "r1 out": after,
        "vm2": after,
    }
    assert {str(s.judgement.state) for s in evidence.observations(kind="SYN")} == {"partial"}
    ttls = {s.hop: s.judgement.packet.ttl for s in evidence.observations(kind="SYN")}
    assert ttls["vm2"] == (ttls["vm1"] or 0) - 1
    assert all(s.judgement.packet.header_valid in (True, None) for s in evidence.observations())


@isolated
def test_the_raw_router_carries_tcp_once_the_senders_sum_themselves(tmp_path: Path) -> None:
    made = network()
    for name in ("vm1", "vm2"):
        inside(name, set_tx_checksum, "eth0", False)
    with forwards("raw", made, tmp_path), tcp_server("vm2", VM2[4]):
        assert connects("vm1", VM2[4])


@isolated
def test_the_vnet_router_carries_super_frames(tmp_path: Path) -> None:
    network()
    size = 2_000_000
    with program(tmp_path, vnet=True) as running:
        listener = inside("vm2", socket.create_server, (VM2[4], 80))
        sender = inside("vm1", socket.create_connection, (VM2[4], 80), 5)
        peer, _ = listener.accept()
        with listener, sender, peer:
            peer.settimeout(10)
            got = 0
            sender.setblocking(False)
            left = size
            while got < size:
                with suppress(BlockingIOError):
                    left -= sender.send(bytes(min(left, 65536))) if left else 0
                got += len(peer.recv(1 << 20)) if left < size - got else 0
        found = running.counters()
        assert found["too_long"] == 0
        assert found["forwarded"] < size / 1448  # fewer frames than would fit the MTU


@isolated
def test_changing_the_kind_of_a_running_router_changes_who_forwards(tmp_path: Path) -> None:
    made = network()
    assert not namespace.forwarding(made)
    assert not pings("vm1", VM2[4], timeout=0.3)
    namespace.set_forwarding(made, True)
    assert namespace.forwarding(made)
    assert pings("vm1", VM2[4])
    assert pings("vm1", VM2[6])
    namespace.set_forwarding(made, False)
    assert not pings("vm1", VM2[4], timeout=0.3)
    with program(tmp_path):
        assert pings("vm1", VM2[4])
    assert not pings("vm1", VM2[4], timeout=0.3)
    namespace.remove(made)
    with IPRoute() as ipr:
        assert not ipr.link_lookup(ifname="r1-net1")
    namespace.remove(made)  # twice is no error
    namespace.build(made, BRIDGES)


@isolated
def test_a_router_without_its_bridge_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    bridge("net1")
    with pytest.raises(HostError, match="the bridge net2 of router r1 does not exist"):
        namespace.build(router(), BRIDGES)
    assert not Path("/run/netns/r1").exists()
    with IPRoute() as ipr:
        assert not ipr.link_lookup(ifname="r1-net1")
    assert not list(tmp_path.iterdir())


def send_udp(address: str, count: int = 1, ttl: int = 64, size: int = 10) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        for _ in range(count):
            sock.sendto(bytes(size), (address, 9))


def settled(running: Program, name: str, at_least: int) -> dict[str, int]:
    deadline = Deadline(15, f"waiting for {at_least} {name}")
    while True:
        found = running.counters()
        if found[name] >= at_least:
            return found
        deadline.check(str(found))
        deadline.pause(0.05)


@isolated
@pytest.mark.parametrize("version", [4, 6])
def test_an_expired_ttl_is_dropped_and_counted(tmp_path: Path, version: int) -> None:
    network()
    with program(tmp_path) as running:
        assert pings("vm1", VM2[version])
        before = running.counters()
        inside("vm1", send_udp, VM2[version], 3, 1)
        after = settled(running, "ttl_expired", before["ttl_expired"] + 3)
        assert after["ttl_expired"] == before["ttl_expired"] + 3
        inside("vm1", send_udp, VM2[version], 1, 2)
        assert (
            settled(running, "forwarded", after["forwarded"] + 1)["ttl_expired"]
            == after["ttl_expired"]
        )


def icmp_error(address: str, ttl: int) -> tuple[int, int, str] | None:
    """Send a datagram; return type, code and sender of the ICMP error that the kernel takes."""
    six = ":" in address
    level, receive = (socket.IPPROTO_IPV6, 25) if six else (socket.IPPROTO_IP, 11)  # RECVERR
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(level, receive, 1)
        sock.setsockopt(level, socket.IPV6_UNICAST_HOPS if six else socket.IP_TTL, ttl)
        sock.connect((address, 9))
        sock.send(bytes(1000))
        waiting = select.poll()
        waiting.register(sock, 0)  # POLLERR comes unasked
        if not waiting.poll(10_000 if ttl == 1 else 500):
            return None
        _, controls, _, _ = sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
    ((_, _, data),) = controls
    # struct sock_extended_err (ip(7)), and the address of who sent the error behind it.
    _, _, kind, code = struct.unpack_from("=IBBB", data)
    own = data[16 + 8 : 16 + 24] if six else data[16 + 4 : 16 + 8]
    return kind, code, str(address_of(own))


@isolated
@pytest.mark.parametrize("vnet", [False, True], ids=["raw", "raw-vnet"])
@pytest.mark.parametrize("version", [4, 6])
def test_the_sender_is_told_that_the_ttl_has_ended(
    tmp_path: Path, version: int, vnet: bool
) -> None:
    network()
    (near,) = [one for one in router().interfaces[0].addresses if one.version == version]
    with program(tmp_path, vnet=vnet) as running:
        assert pings("vm1", VM2[version])
        before = running.counters()
        told = inside("vm1", icmp_error, VM2[version], 1)
        assert told == ({4: 11, 6: 3}[version], 0, str(near.ip))
        after = settled(running, "icmp_sent", 1)
        assert after["icmp_sent"] == 1
        assert after["ttl_expired"] == before["ttl_expired"] + 1
        # One that passes is answered by its receiver, whose port is closed; without the virtio
        # header it is dropped there, and nobody says anything.
        closed = ({4: 3, 6: 1}[version], {4: 3, 6: 4}[version], VM2[version])
        there = inside("vm1", icmp_error, VM2[version], 2)
        assert there == (closed if vnet else None)


@isolated
@pytest.mark.parametrize("nobody", ["10.0.2.77", "fd00:2::77"])
def test_frames_to_a_neighbour_that_never_answers_are_bounded_and_given_up(
    tmp_path: Path, nobody: str
) -> None:
    network()
    with program(tmp_path) as running:
        inside("vm1", send_udp, nobody, 100)
        settled(running, "queue_full", 36)
        found = settled(running, "unresolved", 64)
        assert (found["queue_full"], found["unresolved"], found["forwarded"]) == (36, 64, 0)
        assert pings("vm1", VM2[4])  # and it is well


@isolated
def test_what_has_no_route_or_no_business_is_counted_not_forwarded(tmp_path: Path) -> None:
    network()
    with program(tmp_path) as running:
        inside("vm1", send_udp, "203.0.113.9")
        inside("vm1", send_udp, "10.0.2.255")
        found = settled(running, "no_route", 1)
        found = settled(running, "local", 1)  # a subnet's broadcast address is ours to drop
        assert found["forwarded"] == 0
        inside("vm1", send_udp, "10.9.3.3")  # a static route by way of vm2
        assert settled(running, "forwarded", 1)["no_route"] == 1
        assert pings("vm1", "10.0.2.1")  # the kernel answers for the router itself


@isolated
def test_a_frame_longer_than_the_next_mtu_is_dropped_and_counted(tmp_path: Path) -> None:
    network(mtu=1300)
    with program(tmp_path) as running:
        inside("vm1", send_udp, VM2[4], 1, 64, 1400)
        assert settled(running, "too_long", 1)["forwarded"] == 0
        inside("vm1", send_udp, VM2[4], 1, 64, 1200)
        settled(running, "forwarded", 1)


@isolated
def test_addresses_and_routes_that_come_later_are_learnt(tmp_path: Path) -> None:
    network()
    inside("vm2", configure, "eth0", ("10.5.0.2/24",))
    with program(tmp_path) as running:
        assert not pings("vm1", "10.5.0.2", timeout=0.3)
        inside("r1", configure, "eth1", ("10.5.0.1/24",))
        deadline = Deadline(10, "learning the new network")
        while not pings("vm1", "10.5.0.2", timeout=0.3):
            deadline.check()
        assert pings("vm1", "10.5.0.1")  # the new address is the kernel's to answer
        assert running.counters()["local"] > 0


def send_raw(kind: bytes, payload: bytes, tag: bytes = b"") -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0))
        sock.send(bytes.fromhex("020000000101") + b"\2" * 6 + tag + kind + payload)


@isolated
@pytest.mark.parametrize("vnet", [False, True])
def test_vlan_tags_stay_and_broken_headers_go(tmp_path: Path, vnet: bool) -> None:
    network()
    head = struct.pack(">BBHHHBBH", 0x45, 0, 48, 1, 0, 64, 17, 0)
    head += socket.inet_aton("10.0.1.2") + socket.inet_aton(VM2[4])
    total = int.from_bytes(head, "big") % 0xFFFF
    good = head[:10] + (0xFFFF - total).to_bytes(2, "big") + head[12:] + bytes(28)
    hop = host_point("vm2", "eth0", netns="vm2")
    with program(tmp_path, vnet=vnet) as running:
        assert pings("vm1", VM2[4])
        with Capture([hop], tmp_path / "c", deadline=Deadline(20, "capture")) as capture:
            before = running.counters()
            inside("vm1", send_raw, b"\x08\0", good, b"\x81\0\0\x07")
            inside("vm1", send_raw, b"\x08\0", head + bytes(28))
            after = settled(running, "malformed", before["malformed"] + 1)
            assert after["forwarded"] == before["forwarded"] + 1
            evidence = capture.stop(Deadline(20, "capture"))
    (seen,) = [s for s in evidence.observations() if s.judgement.packet.vlan]
    assert seen.judgement.packet.vlan == (7,)
    assert (seen.judgement.packet.ttl, seen.judgement.packet.header_valid) == (63, True)
    assert seen.record.frame[6:12] == bytes.fromhex("020000000102")


@isolated
def test_a_missing_interface_is_told(tmp_path: Path) -> None:
    network()
    out = tmp_path / "raw.out"
    words = [sys.executable, "-m", "labctl.routers.raw", "--netns", "r1", "eth0", "eth9"]
    handle = start_process(words, stdout=out, stderr=out.with_suffix(".err"))
    assert handle.finish(Deadline(20, "the router program")) == 1
    assert out.read_text() == ""
    assert "cannot route between eth0, eth9" in out.with_suffix(".err").read_text()


@isolated
def test_sigterm_ends_the_program_with_its_counters(tmp_path: Path) -> None:
    network()
    out = tmp_path / "raw.out"
    words = [sys.executable, "-m", "labctl.routers.raw", "--netns", "r1", "eth0", "eth1"]
    handle = start_process(words, stdout=out, stderr=out.with_suffix(".err"))
    running = Program(handle, out)
    running.await_line(1)
    handle.kill(signal.SIGTERM)
    deadline = Deadline(10, "ending the router program")
    while handle.poll() is None:
        time.sleep(0.01)
        deadline.check()
    assert handle.poll() == 0
    assert "counters" in running.lines()[-1]
