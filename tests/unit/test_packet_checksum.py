"""The judge against frames made by a slow, word-by-word reference."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.packet.af_packet import TP_STATUS_CSUM_VALID, TP_STATUS_CSUMNOTREADY
from labctl.packet.checksum import Checksum, Metadata, classify
from labctl.packet.virtio import VnetHeader

MACS = bytes.fromhex("020000000002020000000001")
PAIRS = {4: ("10.0.0.1", "10.0.0.2"), 6: ("fd00::1", "fd00::2")}


def word_sum(data: bytes) -> int:
    total = 0
    for high, low in zip(data[::2], (data + b"\0")[1::2], strict=False):
        total += high << 8 | low
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(version: int, number: int, length: int, dst: str | None = None) -> bytes:
    src, default = PAIRS[version]
    ends = ipaddress.ip_address(src).packed + ipaddress.ip_address(dst or default).packed
    if version == 4:
        return ends + struct.pack(">BBH", 0, number, length)
    return ends + struct.pack(">IHBB", length, 0, 0, number)


def tcp(flags: int = 0x02, payload: bytes = b"", check: int = 0) -> bytes:
    return struct.pack(">HHIIBBHHH", 40000, 22, 7, 9, 0x50, flags, 1000, check, 0) + payload


def udp(payload: bytes = b"", check: int = 0) -> bytes:
    return struct.pack(">HHHH", 5000, 53, 8 + len(payload), check) + payload


def with_state(
    version: int, number: int, segment: bytes, state: str, dst: str | None = None
) -> bytes:
    place = 16 if number == 6 else 6
    head = word_sum(pseudo(version, number, len(segment), dst))
    full = 0xFFFF ^ word_sum(pseudo(version, number, len(segment), dst) + segment)
    value = {"partial": head, "valid": full or (0xFFFF if number == 17 else 0)}.get(state)
    if value is None:
        value = next(
            v for v in range(1, 9) if v not in (head, full) and v % 0xFFFF != full % 0xFFFF
        )
    return segment[:place] + value.to_bytes(2, "big") + segment[place + 2 :]


def ip(version: int, number: int, segment: bytes, *, options: bytes = b"", place: int = 0) -> bytes:
    src, dst = (ipaddress.ip_address(a).packed for a in PAIRS[version])
    if version == 6:
        return (
            struct.pack(">IHBB", 6 << 28, len(options) + len(segment), number, 64)
            + src
            + dst
            + options
            + segment
        )
    size = 20 + len(options)
    head = struct.pack(
        ">BBHHHBBH", 0x40 | size // 4, 0, size + len(segment), 1, place, 64, number, 0
    )
    head += src + dst + options
    check = 0xFFFF ^ word_sum(head)
    return head[:10] + check.to_bytes(2, "big") + head[12:] + segment


def eth(packet: bytes, tags: bytes = b"") -> bytes:
    kind = b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd"
    return MACS + tags + kind + packet


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("number", [6, 17])
@pytest.mark.parametrize("state", ["partial", "valid", "bad"])
@given(payload=st.binary(min_size=1, max_size=200))
def test_every_state_is_told_for_any_payload(
    version: int, number: int, state: str, payload: bytes
) -> None:
    segment = tcp(payload=payload) if number == 6 else udp(payload)
    segment = with_state(version, number, segment, state)
    seen = classify(eth(ip(version, number, segment)))
    if seen.expected == seen.pseudo_sum and state == "partial":
        assert seen.state is Checksum.VALID  # both hold by chance: valid wins
    else:
        assert seen.state == state
    value = int.from_bytes(segment[16:18] if number == 6 else segment[6:8], "big")
    assert seen.field == value
    if state == "valid":
        assert seen.expected == value


@given(data=st.binary(max_size=120), length=st.integers(0, 70000), mtu=st.integers(60, 9000))
def test_no_bytes_make_the_judge_raise(data: bytes, length: int, mtu: int) -> None:
    for kind in (b"\x08\0\x45", b"\x86\xdd\x60", b"\x08\x06", b"\x81\0\0\1\x08\0\x46"):
        classify(MACS + kind + data, original_length=length, mtu=mtu)
    classify(data)


@given(cut=st.integers(0, 70))
def test_a_cut_capture_is_unknown_unless_the_metadata_tells(cut: int) -> None:
    frame = eth(ip(4, 6, with_state(4, 6, tcp(payload=b"x" * 30), "partial")))
    assert len(frame) == 84
    seen = classify(frame[: 83 - cut], original_length=84)
    assert seen.state is Checksum.UNKNOWN
    assert seen.packet.truncated
    marked = classify(frame[: 83 - cut], original_length=84, status=TP_STATUS_CSUMNOTREADY)
    assert marked.state is (Checksum.PARTIAL if 83 - cut >= 52 else Checksum.UNKNOWN)


def test_a_syn_says_who_speaks_to_whom() -> None:
    seen = classify(eth(ip(4, 6, with_state(4, 6, tcp(), "partial"))))
    assert seen.kind == "SYN"
    assert seen.flow == ("tcp", "10.0.0.1", 40000, "10.0.0.2", 22)
    assert (seen.packet.seq, seen.packet.ack, seen.packet.ttl) == (7, 9, 64)
    assert seen.packet.header_valid is True
    assert seen.lost
    assert seen.describe() == "SYN: partial, no metadata"


@pytest.mark.parametrize(
    ("flags", "payload", "kind"),
    [
        (0x12, b"", "SYN-ACK"),
        (0x14, b"", "RST"),
        (0x11, b"", "FIN"),
        (0x10, b"", "ACK"),
        (0x18, b"x", "TCP data"),
    ],
)
def test_tcp_kinds(flags: int, payload: bytes, kind: str) -> None:
    assert classify(eth(ip(4, 6, tcp(flags, payload)))).kind == kind


def test_padding_after_the_packet_is_not_summed() -> None:
    frame = eth(ip(4, 6, with_state(4, 6, tcp(), "valid")))
    assert classify(frame + b"\xee" * 6).state is Checksum.VALID


def test_udp_without_a_sum_is_absent_over_ipv4_and_bad_over_ipv6() -> None:
    assert classify(eth(ip(4, 17, udp(b"x")))).state is Checksum.ABSENT
    assert classify(eth(ip(6, 17, udp(b"x")))).state is Checksum.BAD


@pytest.mark.parametrize("announced", [1, 7, 12, 60_000])
def test_of_an_impossible_udp_length_no_checksum_is_told(announced: int) -> None:
    segment = bytearray(with_state(4, 17, udp(b"abc"), "valid"))
    segment[4:6] = announced.to_bytes(2, "big")
    assert classify(eth(ip(4, 17, bytes(segment)))).state is Checksum.UNKNOWN
    # The control: with the length that it has, it is judged.
    segment[4:6] = len(segment).to_bytes(2, "big")
    assert classify(eth(ip(4, 17, bytes(segment)))).state is Checksum.VALID


def test_the_home_address_of_a_mobile_node_counts_as_the_source() -> None:
    home = ipaddress.ip_address("2001:db8::77").packed
    away, there = (ipaddress.ip_address(one).packed for one in PAIRS[6])
    segment = udp(b"abc")
    head = struct.pack(">IHBB", len(segment), 0, 0, 17)
    check = 0xFFFF ^ word_sum(home + there + head + segment)
    segment = udp(b"abc", check)
    # Next header 17, 3 times 8 bytes; PadN of 4 (RFC 6275 section 6.3: it begins at 8n + 6).
    option = bytes([17, 2, 1, 2, 0, 0, 0xC9, 16]) + home
    assert classify(eth(ip(6, 60, segment, options=option))).state is Checksum.VALID
    other = option.replace(home, away)
    assert classify(eth(ip(6, 60, segment, options=other))).state is Checksum.BAD
    assert classify(eth(ip(6, 60, segment, options=option[:7] + b"\x40" + home))).state is (
        Checksum.BAD
    )


MPLS = b"\x88\x47\0\x01\0\x40\0\x02\x01\x40"
PPPOE = {4: b"\x88\x64\x11\0\0\x07\0\x2a\0\x21", 6: b"\x88\x64\x11\0\0\x07\0\x2a\0\x57"}
AUTHENTICATION = bytes([6, 4, 0, 0]) + bytes(20)


@pytest.mark.parametrize("state", ["partial", "valid", "bad"])
@pytest.mark.parametrize("version", [4, 6])
def test_the_packet_behind_labels_pppoe_and_an_authentication_header_is_judged(
    version: int, state: str
) -> None:
    segment = with_state(version, 6, tcp(), state)
    packet = ip(version, 6, segment)
    hidden = [MACS + MPLS + packet, MACS + b"\x81\0\0\x05" + PPPOE[version] + packet]
    hidden.append(eth(ip(version, 51, AUTHENTICATION + segment)))
    for frame in hidden:
        assert (classify(frame).state, classify(frame).packet.dport) == (Checksum(state), 22)


def test_what_only_looks_like_a_label_or_pppoe_is_no_ip() -> None:
    packet = ip(4, 6, with_state(4, 6, tcp(), "valid"))
    control = MACS + MPLS + b"\0" + packet  # a pseudowire's control word
    discovery = MACS + b"\x88\x64\x11\x09\0\0\0\0\0\x21" + packet
    compressed = MACS + b"\x88\x64\x11\0\0\0\0\0\xc0\x21" + packet
    for frame in (control, discovery, compressed, MACS + MPLS, MACS + MPLS[:5]):
        assert classify(frame).packet.family == "other"


def test_ipv4_options_and_vlan_tags_move_the_headers() -> None:
    segment = with_state(4, 6, tcp(), "valid")
    seen = classify(eth(ip(4, 6, segment, options=b"\x01" * 8), b"\x88\xa8\0\x05\x81\0\x20\x07"))
    assert seen.state is Checksum.VALID
    assert seen.packet.vlan == (5, 7)
    assert seen.packet.dport == 22


@pytest.mark.parametrize("place", [0x2000, 0x0010, 0x2010])
def test_fragments_are_unknown_and_said_to_be_fragments(place: int) -> None:
    seen = classify(eth(ip(4, 17, with_state(4, 17, udp(b"abcd"), "valid"), place=place)))
    assert (seen.state, seen.packet.fragment) == (Checksum.UNKNOWN, True)
    assert (seen.packet.dport is None) == bool(place & 0x1FFF)


def test_ipv6_extension_headers_are_walked() -> None:
    segment = with_state(6, 6, tcp(), "partial")
    chain = bytes([60, 0, 1, 4, 0, 0, 0, 0]) + bytes([6, 1, 1, 12, *[0] * 12])
    assert classify(eth(ip(6, 0, segment, options=chain))).state is Checksum.PARTIAL


def test_ipv6_fragments_but_for_atomic_ones_are_unknown() -> None:
    segment = with_state(6, 17, udp(b"abcd"), "valid")
    for place, state in (
        (0x0001, Checksum.UNKNOWN),
        (0x0010, Checksum.UNKNOWN),
        (0, Checksum.VALID),
    ):
        chain = struct.pack(">BBHI", 17, 0, place, 99)
        seen = classify(eth(ip(6, 44, segment, options=chain)))
        assert seen.state is state
        assert seen.packet.ip_id == 99


@pytest.mark.parametrize("kind", [0, 4])
def test_a_routing_header_puts_its_final_address_in_the_pseudo_header(kind: int) -> None:
    final = "fd00::99"
    segment = with_state(6, 6, tcp(), "valid", dst=final)
    chain = bytes([6, 2, kind, 1, 0, 0, 0, 0]) + ipaddress.ip_address(final).packed
    assert classify(eth(ip(6, 43, segment, options=chain))).state is Checksum.VALID


@pytest.mark.parametrize(("number", "kind"), [(1, 8), (58, 128)])
def test_echoes_are_judged(number: int, kind: int) -> None:
    version = 4 if number == 1 else 6
    body = struct.pack(">BBHHH", kind, 0, 0, 77, 3) + b"abc"
    cover = b"" if number == 1 else pseudo(6, 58, len(body))
    value = 0xFFFF ^ word_sum(cover + body)
    good = body[:2] + value.to_bytes(2, "big") + body[4:]
    seen = classify(eth(ip(version, number, good)))
    assert seen.state is Checksum.VALID
    assert seen.kind in ("ICMP echo", "ICMPv6 echo")
    assert (seen.packet.ack, seen.packet.seq) == (77, 3)
    assert (
        classify(eth(ip(version, number, body[:2] + b"\x12\x34" + body[4:]))).state is Checksum.BAD
    )


def test_metadata_comes_from_the_virtio_header_or_the_status() -> None:
    frame = eth(ip(4, 6, with_state(4, 6, tcp(), "partial")))
    needs = VnetHeader(1, 0, 54, 0, 34, 16)
    assert VnetHeader.unpack(needs.pack()) == needs
    assert classify(frame, vnet=needs).metadata is Metadata.NEEDS_CSUM
    assert classify(frame, status=TP_STATUS_CSUMNOTREADY).metadata is Metadata.NEEDS_CSUM
    assert classify(frame, vnet=VnetHeader(2, 0, 0, 0, 0, 0)).metadata is Metadata.DATA_VALID
    assert classify(frame, status=TP_STATUS_CSUM_VALID).metadata is Metadata.DATA_VALID
    assert classify(frame).metadata is Metadata.NONE
    assert not classify(frame, vnet=needs).lost


def test_super_frames_are_flagged_and_accuse_nobody() -> None:
    frame = eth(ip(4, 6, with_state(4, 6, tcp(0x10, b"x" * 3000), "partial")))
    merged = classify(frame, mtu=1500)
    assert (merged.gso, merged.lost, merged.state) == ("merged", False, Checksum.PARTIAL)
    tso = classify(frame, vnet=VnetHeader(1, 0x81, 54, 1448, 34, 16), mtu=1500)
    assert (tso.gso, tso.gso_size) == ("tcpv4", 1448)
    assert classify(frame, mtu=9000).gso == ""


def test_a_big_tcp_frame_announces_no_length() -> None:
    body = tcp(0x10, b"y" * 70000)
    head = bytearray(ip(4, 6, tcp()))
    head[2:4] = b"\0\0"
    seen = classify(eth(bytes(head[:20]) + body), vnet=VnetHeader(1, 1, 54, 1448, 34, 16))
    assert seen.packet.l4_length == 70020
    assert not seen.packet.truncated


def test_arp_and_strangers_have_no_checksum() -> None:
    arp = (
        MACS
        + b"\x08\x06\0\1\x08\0\6\4\0\1"
        + MACS[6:]
        + bytes([10, 0, 0, 1])
        + bytes(6)
        + bytes([10, 0, 0, 2])
    )
    seen = classify(arp)
    assert (seen.kind, seen.packet.dst, seen.state) == ("ARP request", "10.0.0.2", Checksum.UNKNOWN)
    assert classify(MACS + b"\x88\xcc" + b"x" * 40).kind == "ethertype 0x88cc"


def test_icmpv6_is_never_left_to_a_device_so_never_partial() -> None:
    body = struct.pack(">BBHHH", 128, 0, 0, 77, 3)
    head = word_sum(pseudo(6, 58, len(body)))
    frame = eth(ip(6, 58, body[:2] + head.to_bytes(2, "big") + body[4:]))
    assert classify(frame, status=TP_STATUS_CSUMNOTREADY).state is Checksum.BAD


@pytest.mark.parametrize(("number", "zero"), [(6, 0), (17, 0xFFFF)])
def test_a_sum_of_zero_is_sent_as_zero_by_tcp_alone(number: int, zero: int) -> None:
    segment = tcp(payload=b"\0\0") if number == 6 else udp(b"\0\0")
    rest = word_sum(pseudo(4, number, len(segment)) + segment)
    segment = segment[:-2] + (0xFFFF - rest).to_bytes(2, "big")  # now all words sum to 0xffff
    place = 16 if number == 6 else 6
    segment = segment[:place] + zero.to_bytes(2, "big") + segment[place + 2 :]
    seen = classify(eth(ip(4, number, segment)))
    assert (seen.state, seen.field, seen.expected) == (Checksum.VALID, zero, zero)


def test_an_authentication_header_counts_its_length_in_other_units() -> None:
    segment = with_state(6, 6, tcp(), "valid")
    chain = bytes([6, 4, *[0] * 22])  # 24 bytes: (4 + 2) words of four bytes
    seen = classify(eth(ip(6, 51, segment, options=chain)))
    assert (seen.state, seen.packet.dport) == (Checksum.VALID, 22)
