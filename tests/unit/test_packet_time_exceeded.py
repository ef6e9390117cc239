"""The ICMP error about a packet whose TTL has ended, read back by the judge and the parser."""

from __future__ import annotations

import ipaddress

import pytest
from test_packet_checksum import eth, ip, tcp, udp, with_state

from labctl.packet.checksum import Checksum, classify
from labctl.packet.forwarding import IpHeader, read
from labctl.packet.icmp import read_error
from labctl.packet.time_exceeded import time_exceeded

ROUTER = {4: ipaddress.ip_address("10.0.0.254").packed, 6: ipaddress.ip_address("fd00::fe").packed}
NUMBERS = {4: 1, 6: 58}


def error_about(frame: bytes, version: int) -> bytes | None:
    header = read(frame)
    assert isinstance(header, IpHeader)
    return time_exceeded(frame, header, ROUTER[version])


@pytest.mark.parametrize("tags", [b"", b"\x81\0\0\x05"])
@pytest.mark.parametrize("size", [0, 1, 3000])
@pytest.mark.parametrize("version", [4, 6])
def test_it_is_sound_and_quotes_the_packet(version: int, size: int, tags: bytes) -> None:
    frame = eth(ip(version, 17, with_state(version, 17, udp(bytes(size)), "valid")), tags)
    told = error_about(frame, version)
    assert told is not None
    seen = classify(told)
    assert seen.state is Checksum.VALID
    assert seen.kind == {4: "ICMP time exceeded", 6: "ICMPv6 time exceeded"}[version]
    assert seen.packet.header_valid in (True, None)
    assert (seen.packet.dst, seen.packet.vlan) == (classify(frame).packet.src, (5,) if tags else ())
    error = read_error(told, seen.packet)
    assert error is not None
    assert (error.code, error.quoted.dport) == (0, 53)
    assert len(told) - 14 - len(tags) <= {4: 576, 6: 1280}[version]


def test_padding_of_a_short_frame_is_not_quoted() -> None:
    frame = eth(ip(4, 17, udp(b"x")))
    assert error_about(frame + bytes(17), 4) == error_about(frame, 4)


@pytest.mark.parametrize(
    ("version", "kind", "told"),
    [(4, 3, False), (4, 11, False), (4, 8, True), (6, 1, False), (6, 3, False), (6, 128, True)],
)
def test_no_error_is_told_about_an_error(version: int, kind: int, told: bool) -> None:
    frame = eth(ip(version, NUMBERS[version], bytes([kind]) + bytes(40)))
    assert (error_about(frame, version) is not None) is told


def test_of_fragments_only_the_first_is_told_of() -> None:
    segment = with_state(4, 6, tcp(), "valid")
    assert error_about(eth(ip(4, 6, segment, place=0x2000)), 4)
    assert error_about(eth(ip(4, 6, segment, place=0x0010)), 4) is None
    for place, told in ((0x0001, True), (0x0011, False)):
        options = bytes([6, 0]) + place.to_bytes(2, "big") + bytes(4)
        found = error_about(eth(ip(6, 44, segment, options=options)), 6)
        assert (found is not None) is told


def test_an_error_behind_extension_headers_is_an_error() -> None:
    options = bytes([58, 0, 1, 4, 0, 0, 0, 0])
    assert error_about(eth(ip(6, 60, bytes([1]) + bytes(20), options=options)), 6) is None
    assert error_about(eth(ip(6, 60, bytes([128]) + bytes(20), options=options)), 6)
