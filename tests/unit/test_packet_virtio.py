"""The virtio header, what stands beside it, and the observer's own copy of both."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.kinds.observers import observe
from labctl.packet import af_packet, virtio
from labctl.packet.virtio import VNET_NEEDS_CSUM, VNET_SIZE, VnetHeader, shift

OPEN = VnetHeader(VNET_NEEDS_CSUM, 1, 54, 1448, 34, 16)


def shifted(header: VnetHeader, by: int = 4) -> VnetHeader:
    message = bytearray(header.pack() + b"the frame")
    shift(message, by)
    assert message[VNET_SIZE:] == b"the frame"
    return VnetHeader.unpack(message[:VNET_SIZE])


def test_offsets_move_with_the_bytes() -> None:
    assert shifted(OPEN) == replace(OPEN, hdr_len=58, csum_start=38)


def test_what_is_not_said_stays_so() -> None:
    assert shifted(replace(OPEN, hdr_len=0)) == replace(OPEN, hdr_len=0, csum_start=38)
    told = VnetHeader(0, 0, 0, 0, 0, 0)
    assert shifted(told) == told


def test_an_offset_beyond_16_bits_is_no_error() -> None:
    assert shifted(replace(OPEN, hdr_len=0xFFFF, csum_start=0xFFFE)).csum_start == 2


@given(data=st.binary(min_size=VNET_SIZE, max_size=VNET_SIZE))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    header = VnetHeader.unpack(data)
    assert header.pack() == data
    assert header.gso.isprintable()
    moved = shifted(header)
    assert (moved.flags, moved.gso_size) == (header.flags, header.gso_size)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (af_packet.TP_STATUS_VLAN_VALID, 0x8100),
        (af_packet.TP_STATUS_VLAN_VALID | af_packet.TP_STATUS_VLAN_TPID_VALID, 0x88A8),
    ],
)
def test_a_tags_type_is_8021q_unless_the_kernel_tells_another(status: int, kind: int) -> None:
    assert af_packet.vlan_tag(status, 0x2007, 0x88A8) == struct.pack(">HH", kind, 0x2007)


def test_the_observer_which_can_import_nothing_says_the_same() -> None:
    names = {name for name in vars(observe) if name.isupper()}
    same = names & {*vars(af_packet), *vars(virtio)}
    assert same == {
        "ETH_P_ALL",
        "PACKET_AUXDATA",
        "PACKET_STATISTICS",
        "PACKET_VNET_HDR",
        "SOL_PACKET",
        "VNET_SIZE",
    }
    for name in same:
        known = getattr(af_packet, name, None) or getattr(virtio, name)
        assert getattr(observe, name) == known, name
