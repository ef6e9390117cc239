"""What the user-space router reads and changes in a frame."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.packet.forwarding import MALFORMED, NOT_FORWARDABLE, OTHER, IpHeader, Refused, age, read
from labctl.packet.frame import parse

MACS = b"\2" * 12


def word_sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ipv4(src: str = "10.0.1.2", dst: str = "10.0.2.2", ttl: int = 64, ident: int = 1) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 28, ident, 0, ttl, 17, 0)
    head += ipaddress.IPv4Address(src).packed + ipaddress.IPv4Address(dst).packed
    return head[:10] + (0xFFFF ^ word_sum(head)).to_bytes(2, "big") + head[12:]


def ipv6(src: str = "fd00:1::2", dst: str = "fd00:2::2", ttl: int = 64) -> bytes:
    ends = ipaddress.IPv6Address(src).packed + ipaddress.IPv6Address(dst).packed
    return struct.pack(">IHBB", 6 << 28, 8, 17, ttl) + ends


def frame(packet: bytes, tag: bytes = b"") -> bytearray:
    kind = b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd"
    return bytearray(MACS + tag + kind + packet + b"12345678")


@given(ttl=st.integers(1, 255), ident=st.integers(0, 0xFFFF), tail=st.binary(max_size=40))
def test_ageing_keeps_the_ipv4_sum_right_and_the_rest_as_it_was(
    ttl: int, ident: int, tail: bytes
) -> None:
    before = frame(ipv4(ttl=ttl, ident=ident)) + tail
    after = bytearray(before)
    found = read(after)
    assert isinstance(found, IpHeader)
    age(after, found)
    assert after[22] == ttl - 1
    assert word_sum(bytes(after[14:34])) == 0xFFFF
    assert after[:22] == before[:22]
    assert after[23] == before[23]
    assert after[26:] == before[26:]


def test_ageing_ipv6_changes_the_hop_limit_alone() -> None:
    before = frame(ipv6(ttl=9))
    after = bytearray(before)
    found = read(after)
    assert isinstance(found, IpHeader)
    assert (found.version, found.ttl) == (6, 9)
    age(after, found)
    assert [n for n in range(len(after)) if after[n] != before[n]] == [21]


@pytest.mark.parametrize("tag", [b"", b"\x81\0\0\7", b"\x88\xa8\0\1\x81\0\0\2"])
@pytest.mark.parametrize("packet", [ipv4(), ipv6()])
def test_headers_are_found_behind_vlan_tags(packet: bytes, tag: bytes) -> None:
    found = read(frame(packet, tag))
    assert isinstance(found, IpHeader)
    assert found.at == 14 + len(tag)
    assert found.dst in (b"\x0a\0\2\2", ipaddress.IPv6Address("fd00:2::2").packed)


@pytest.mark.parametrize(
    "dst", ["224.0.0.251", "255.255.255.255", "127.0.0.1", "169.254.1.1", "0.0.0.0"]
)
def test_ipv4_addresses_of_one_link_or_host_are_not_forwarded(dst: str) -> None:
    assert read(frame(ipv4(dst=dst))) == NOT_FORWARDABLE
    assert read(frame(ipv4(src=dst))) == NOT_FORWARDABLE


@pytest.mark.parametrize("dst", ["ff02::1", "ff0e::1", "fe80::1", "febf::1", "::1", "::"])
def test_ipv6_addresses_of_one_link_or_host_are_not_forwarded(dst: str) -> None:
    assert read(frame(ipv6(dst=dst))) == NOT_FORWARDABLE
    assert read(frame(ipv6(src=dst))) == NOT_FORWARDABLE


def test_neighbours_of_those_addresses_are_forwarded() -> None:
    for dst in ("169.253.0.1", "223.1.1.1"):
        assert isinstance(read(frame(ipv4(dst=dst))), IpHeader)
    for dst in ("fec0::1", "::2"):
        assert isinstance(read(frame(ipv6(dst=dst))), IpHeader)


def test_broken_headers_are_malformed() -> None:
    good = frame(ipv4())
    for at, value in ((14, 0x44), (14, 0x65), (24, good[24] ^ 1)):
        bad = bytearray(good)
        bad[at] = value
        assert read(bad) == MALFORMED
    assert read(good[:30]) == MALFORMED
    assert read(frame(ipv6())[:50]) == MALFORMED


def test_what_is_not_ip_is_none_of_its_business() -> None:
    assert read(MACS + b"\x08\x06" + bytes(28)) == OTHER


@pytest.mark.parametrize("tag", [b"", b"\x81\0\0\7", b"\x88\xa8\0\1\x81\0\0\2"])
@pytest.mark.parametrize("packet", [ipv4(), ipv6()])
@given(place=st.integers(0, 60), value=st.integers(0, 255))
def test_what_it_takes_the_reader_of_captures_reads_alike(
    packet: bytes, tag: bytes, place: int, value: int
) -> None:
    data = frame(packet, tag)
    data[place % len(data)] = value
    found, known = read(data), parse(bytes(data))
    if isinstance(found, IpHeader):
        assert known.family == f"ipv{found.version}"
        assert (known.l3_offset, known.ttl) == (found.at, found.ttl)
        assert known.dst == str(ipaddress.ip_address(found.dst))
        assert known.header_valid is not False


@given(data=st.binary(max_size=80))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    for start in (b"", MACS + b"\x08\0\x46", MACS + b"\x86\xdd\x60", MACS + b"\x81\0"):
        assert isinstance(read(start + data), IpHeader | Refused)
