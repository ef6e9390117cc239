"""What the user-space router's variants do to a packet and its virtio header."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from labctl.packet.af_packet import TP_STATUS_CSUMNOTREADY
from labctl.packet.checksum import Checksum, classify
from labctl.packet.virtio import VNET_NEEDS_CSUM, VNET_SIZE, VnetHeader
from labctl.routers.rewriting import CHANGES, DropTenth, Translate

ADDRESSES = {4: IP(src="10.0.1.1", dst="10.0.2.2"), 6: IPv6(src="fd00:1::1", dst="fd00:2::2")}
OFFSETS = {"tcp": 16, "udp": 6}


def message(version: int, protocol: str, state: str, payload: bytes = b"payload") -> bytearray:
    """A frame behind its virtio header, as a socket with PACKET_VNET_HDR gives it."""
    layer: Any = TCP(dport=22, flags="S") if protocol == "tcp" else UDP(dport=4007)
    frame = bytearray(bytes(Ether() / ADDRESSES[version] / layer / payload))
    at = 14 + (20 if version == 4 else 40)
    field = at + OFFSETS[protocol]
    header = VnetHeader(0, 0, 0, 0, 0, 0)
    if state == "partial":
        judged = classify(bytes(frame))
        assert judged.pseudo_sum is not None
        frame[field : field + 2] = judged.pseudo_sum.to_bytes(2, "big")
        header = VnetHeader(VNET_NEEDS_CSUM, 0, 0, 0, at, OFFSETS[protocol])
    elif state == "bad":
        frame[field] ^= 0x55
    return bytearray(header.pack()) + frame


def after(how: str, given: bytearray, ready: bool) -> tuple[bool, VnetHeader, Checksum]:
    made = bytearray(given)
    passes = CHANGES[how](made, 0 if ready else TP_STATUS_CSUMNOTREADY)
    header = VnetHeader.unpack(bytes(made[:VNET_SIZE]))
    return passes, header, classify(bytes(made[VNET_SIZE:])).state


EVERY = [(version, protocol) for version in (4, 6) for protocol in ("tcp", "udp")]


@pytest.mark.parametrize(("version", "protocol"), EVERY)
@pytest.mark.parametrize(
    ("how", "state", "then", "flags"),
    [
        ("zero", "partial", Checksum.PARTIAL, 0),
        ("synthesise", "partial", Checksum.PARTIAL, VNET_NEEDS_CSUM),
        ("synthesise", "valid", Checksum.VALID, 0),
        ("recompute", "partial", Checksum.VALID, 0),
        ("recompute", "valid", Checksum.VALID, 0),
        ("recompute", "bad", Checksum.VALID, 0),
        ("recompute-unready", "partial", Checksum.VALID, 0),
        ("recompute-unready", "bad", Checksum.BAD, 0),
        ("damage-summed", "partial", Checksum.BAD, 0),
    ],
)
def test_a_packet_comes_out_so(
    version: int, protocol: str, how: str, state: str, then: Checksum, flags: int
) -> None:
    given = message(version, protocol, state)
    passes, header, found = after(how, given, ready=state != "partial")
    assert (passes, found, header.flags) == (True, then, flags)


@pytest.mark.parametrize(("version", "protocol"), EVERY)
def test_a_header_made_of_the_status_word_is_that_of_the_kernel(
    version: int, protocol: str
) -> None:
    given = message(version, protocol, "partial")
    _, header, _ = after("synthesise", given, ready=False)
    assert header.pack() == bytes(given[:VNET_SIZE])


def test_what_lost_its_metadata_before_is_healed_by_who_asks_for_none() -> None:
    lost = message(4, "tcp", "partial")
    lost[:VNET_SIZE] = bytes(VNET_SIZE)
    assert after("recompute", lost, ready=True)[2] is Checksum.VALID
    assert after("recompute-unready", lost, ready=True)[2] is Checksum.PARTIAL


def test_a_datagram_without_a_checksum_stays_without() -> None:
    given = message(4, "udp", "valid")
    given[VNET_SIZE + 40 : VNET_SIZE + 42] = b"\0\0"
    assert after("recompute", given, ready=True)[2] is Checksum.ABSENT


@pytest.mark.parametrize(("version", "protocol"), EVERY)
def test_damage_is_to_the_payload_alone(version: int, protocol: str) -> None:
    given = message(version, protocol, "partial")
    made = bytearray(given)
    assert CHANGES["damage"](made, TP_STATUS_CSUMNOTREADY)
    assert made[:-1] == given[:-1]
    assert made[-1] != given[-1]
    empty = message(version, protocol, "partial", b"")
    unchanged = bytearray(empty)
    assert CHANGES["damage"](unchanged, TP_STATUS_CSUMNOTREADY)
    assert unchanged == empty


def test_a_syn_is_refused_and_nothing_else() -> None:
    assert not CHANGES["refuse-syn"](message(4, "tcp", "partial", b""), 0)
    assert CHANGES["refuse-syn"](message(4, "udp", "partial"), 0)
    answer = bytearray(VNET_SIZE) + bytes(Ether() / ADDRESSES[4] / TCP(sport=22, flags="SA"))
    assert CHANGES["refuse-syn"](answer, 0)


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("cut", [0, 1, 13, 14, 20, 34, 40, 53])
def test_a_frame_that_is_cut_off_is_passed_on(how: str, cut: int) -> None:
    given = message(4, "tcp", "partial")[: VNET_SIZE + cut]
    CHANGES[how](given, TP_STATUS_CSUMNOTREADY)
    assert len(given) == VNET_SIZE + cut


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(("state", "then"), [("valid", Checksum.VALID), ("partial", Checksum.BAD)])
def test_an_incremental_update_is_right_for_a_finished_sum_alone(
    protocol: str, state: str, then: Checksum
) -> None:
    made = message(4, protocol, state)
    header = bytes(made[:VNET_SIZE])
    translate = Translate(bytes([10, 0, 1, 1]), bytes([192, 0, 2, 1]))
    assert translate(made, 0)
    judged = classify(bytes(made[VNET_SIZE:]))
    assert judged.packet.src == "192.0.2.1"
    assert judged.packet.header_valid
    assert judged.state is then
    assert bytes(made[:VNET_SIZE]) == header, "what is known of it goes on"


def test_a_translation_leaves_what_is_of_others() -> None:
    for given in (message(4, "tcp", "partial"), message(6, "udp", "valid")):
        made = bytearray(given)
        assert Translate(bytes([10, 9, 9, 9]), bytes([192, 0, 2, 1]))(made, 0)
        assert made == given


def test_every_tenth_packet_is_dropped() -> None:
    change = DropTenth()
    passed = [change(bytearray(), 0) for _ in range(20)]
    assert [number for number, passes in enumerate(passed, 1) if not passes] == [10, 20]
