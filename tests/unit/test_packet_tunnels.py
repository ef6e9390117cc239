"""SCTP's checksum, and frames inside frames."""

from __future__ import annotations

import struct

import pytest
from test_packet_checksum import eth, ip, pseudo, tcp, udp, with_state, word_sum

from labctl.packet.checksum import Checksum, classify
from labctl.packet.crc32c import crc32c
from labctl.packet.frame import parse
from labctl.packet.tunnels import decapsulate
from labctl.packet.virtio import VNET_NEEDS_CSUM, VnetHeader


def sctp(payload: bytes, check: bytes | None = None, chunk: int = 1) -> bytes:
    head = struct.pack(">HHI", 9, 80, 7)
    body = bytes([chunk, 0]) + struct.pack(">H", 4 + len(payload)) + payload
    value = crc32c(head + bytes(4) + body).to_bytes(4, "little") if check is None else check
    return head + value + body


def vxlan(inner: bytes, vni: int = 42, flags: int = 0x08) -> bytes:
    head = bytes([flags, 0, 0, 0]) + vni.to_bytes(3, "big") + b"\0"
    return struct.pack(">HHHH", 5000, 4789, 16 + len(inner), 0) + head + inner


def local(version: int, unfinished: bytes, finished: bytes, vni: int = 42) -> bytes:
    """A tunnel's datagram as Linux leaves it: the sum is that of the finished packet inside."""
    right = with_state(version, 17, vxlan(finished, vni), "valid")
    return right[:16] + unfinished


@pytest.mark.parametrize(
    ("data", "crc"),
    [  # RFC 3720 appendix B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
    ],
)
def test_crc32c_gives_the_published_values(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("check", "state"),
    [(None, Checksum.VALID), (bytes(4), Checksum.PARTIAL), (b"\1\2\3\4", Checksum.BAD)],
)
def test_sctp_is_judged_by_its_crc(version: int, check: bytes | None, state: Checksum) -> None:
    right = sctp(b"hello world!")
    seen = classify(eth(ip(version, 132, sctp(b"hello world!", check))))
    assert seen.state is state
    assert seen.kind == "SCTP INIT"
    assert seen.flow is not None
    assert seen.flow[2::2] == (9, 80)
    assert seen.expected == int.from_bytes(right[8:12], "big")
    assert seen.pseudo_sum == 0


def test_a_cut_sctp_packet_is_unknown() -> None:
    frame = eth(ip(4, 132, sctp(b"hello world!")))
    assert classify(frame[:-1], original_length=len(frame)).state is Checksum.UNKNOWN


def test_the_frame_inside_vxlan_is_found_and_its_cut_is_known() -> None:
    inner = eth(ip(4, 6, with_state(4, 6, tcp(), "partial")))
    outer = eth(ip(4, 17, vxlan(inner)))
    found = decapsulate(outer, parse(outer))
    assert found is not None
    assert (found.vni, found.frame, found.original_length) == (42, inner, len(inner))
    assert classify(found.frame).state is Checksum.PARTIAL
    cut = outer[:-5]
    found = decapsulate(cut, parse(cut, len(outer)))
    assert found is not None
    assert (len(found.frame), found.original_length) == (len(inner) - 5, len(inner))


@pytest.mark.parametrize(
    "segment", [vxlan(b"x" * 30, flags=0), vxlan(b""), udp(b"y" * 40), tcp(payload=b"z" * 40)]
)
def test_what_is_no_vxlan_carries_nothing(segment: bytes) -> None:
    frame = eth(ip(4, 6 if len(segment) == 60 else 17, segment))
    assert decapsulate(frame, parse(frame)) is None


def inside(version: int, number: int, state: str) -> bytes:
    body = tcp(0x18, b"hello") if number == 6 else udp(b"hello!!")
    return eth(ip(version, number, with_state(version, number, body, state)))


@pytest.mark.parametrize("tags", [b"", b"\x81\0\0\1"])
@pytest.mark.parametrize("number", [6, 17])
@pytest.mark.parametrize("within", [4, 6])
@pytest.mark.parametrize("version", [4, 6])
def test_a_tunnels_sum_that_counts_on_the_finished_packet_inside_is_partial(
    version: int, within: int, number: int, tags: bytes
) -> None:
    unfinished, finished = (inside(within, number, state) for state in ("partial", "valid"))
    body = local(version, unfinished, finished)
    frame = eth(ip(version, 17, body), tags)
    seen = classify(frame)
    assert seen.state is Checksum.PARTIAL
    assert seen.field == seen.expected != seen.pseudo_sum
    assert seen.lost, "nobody finishes what is inside, so its receiver drops it"
    assert not classify(frame, vnet=VnetHeader(VNET_NEEDS_CSUM, 0, 0, 0, 0, 0)).lost
    assert classify(eth(ip(version, 17, body[:16] + finished))).state is Checksum.VALID
    # The kernel's own sum (lco_csum()): what is before the inner sum, and its field's complement.
    begins = 16 + 14 + (20 if within == 4 else 40)
    place = begins + (16 if number == 6 else 6)
    held = int.from_bytes(body[place : place + 2], "big")
    total = pseudo(version, 17, len(body)) + body[:6] + b"\0\0" + body[8:begins]
    assert 0xFFFF ^ word_sum(total + (0xFFFF ^ held).to_bytes(2, "big")) == seen.field


def test_a_tunnels_sum_that_is_wrong_is_bad_whatever_is_inside() -> None:
    unfinished, finished = (inside(4, 6, state) for state in ("partial", "valid"))
    body = local(4, unfinished, finished)
    wrong = [
        body[:8] + b"\x0c" + body[9:],  # a flag of the tunnel's
        body[:40] + b"\xaa" + body[41:],  # the inner IP header
        body[:7] + bytes([body[7] ^ 1]) + body[8:],
        local(4, inside(4, 6, "bad"), finished),
        body[:8] + b"\0" + body[9:],  # no tunnel any more
    ]
    assert [classify(eth(ip(4, 17, one))).state for one in wrong] == [Checksum.BAD] * len(wrong)


def test_a_tunnel_in_a_tunnel_counts_on_the_innermost_packet() -> None:
    frames = [inside(4, 6, "partial"), inside(4, 6, "valid")]
    middle, whole = (eth(ip(6, 17, local(6, one, frames[1], 7))) for one in frames)
    assert classify(middle).state is Checksum.PARTIAL
    assert classify(eth(ip(4, 17, local(4, middle, whole)))).state is Checksum.PARTIAL
    assert classify(eth(ip(4, 17, local(4, whole, whole)))).state is Checksum.VALID


def test_where_the_sum_inside_begins_is_told_for_any_tunnel() -> None:
    unfinished, finished = (inside(4, 6, state) for state in ("partial", "valid"))

    def geneve(inner: bytes, check: bytes = b"\0\0") -> bytes:
        head = struct.pack(">HHH", 5000, 6081, 20 + len(inner)) + check
        return head + b"\x01\0\x65\x58\0\0\x07\0" + b"\1\2\3\0" + inner  # one option

    check = with_state(4, 17, geneve(finished), "valid")[6:8]
    frame = eth(ip(4, 17, geneve(unfinished, check)))
    begins = 34 + 20 + 34
    told = VnetHeader(VNET_NEEDS_CSUM, 0, 0, 0, begins, 16)
    assert classify(frame, vnet=told).state is Checksum.PARTIAL
    assert classify(frame, vnet=VnetHeader(0, 0, 0, 0, begins, 16)).state is Checksum.BAD
    assert classify(frame[:-1] + b"!", vnet=told).state is Checksum.PARTIAL, "still to be summed"
    assert classify(frame[:60] + b"!" + frame[61:], vnet=told).state is Checksum.BAD


@pytest.mark.parametrize("port", [4789, 8472, 6081, 53])
def test_without_a_sum_over_ipv6_only_a_tunnels_datagram_is_absent(port: int) -> None:
    body = vxlan(inside(4, 6, "valid"))
    body = body[:2] + port.to_bytes(2, "big") + body[4:]
    assert classify(eth(ip(4, 17, body))).state is Checksum.ABSENT
    expected = Checksum.BAD if port == 53 else Checksum.ABSENT
    assert classify(eth(ip(6, 17, body))).state is expected
