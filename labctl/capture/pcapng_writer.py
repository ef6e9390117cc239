"""Writes observations of many hops as pcapng, block by block: what `pcapng` reads back.

Beside each frame stand, for any reader, its direction, what the kernel knew of its checksum
(`epb_flags`, bits 9 to 11) and a number that is equal for one packet at all hops (`epb_packetid`);
and for people, and for what no option can hold, a comment. Source: draft-ietf-opsawg-pcapng,
sections 4.2 (interfaces), 4.3 (packets) and 4.6 (statistics).
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from pcapng import FileWriter
from pcapng.blocks import (
    EnhancedPacket,
    InterfaceDescription,
    InterfaceStatistics,
    SectionHeader,
)

from labctl.capture.packet_ids import PacketIds
from labctl.capture.session import HopEvidence, Observation
from labctl.kinds.observers.stream import Direction, Header, Trailer
from labctl.packet import link_types
from labctl.packet.checksum import Metadata
from labctl.packet.virtio import (
    EPB_CHECKSUM_NOT_READY,
    EPB_CHECKSUM_VALID,
    EPB_TCP_SEGMENTATION,
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    VnetHeader,
)

LUA = Path(__file__).with_name("wireshark.lua")
"""A plugin of Wireshark's that shows as columns what is written here."""
_NANOSECONDS = b"\x09"
_FIELDS = dataclasses.fields(VnetHeader)
OUT = 2
_DIRECTIONS: dict[Direction, int] = {"in": 1, "out": OUT}
"""The first two bits of `epb_flags`."""
_METADATA = {
    Metadata.NEEDS_CSUM: EPB_CHECKSUM_NOT_READY,
    Metadata.DATA_VALID: EPB_CHECKSUM_VALID,
    Metadata.NONE: 0,
    Metadata.UNTOLD: 0,
}
BEGAN, ENDED = "its clock at the start:", "its clock at the end:"
ARRIVED, ASKED = "our clock when it had started:", "our clock when it was to end:"
"""The times of a hop in its interface's description, each followed by nanoseconds."""
VNET = "virtio header:"
"""In a packet's comment, followed by the header's fields where any of them says something."""
ERRORS = "receive errors:"
"""In an interface's description, or in the comment of its statistics, followed by their number."""


@contextlib.contextmanager
def silently() -> Iterator[None]:
    """Leave out what python-pcapng warns of in its own use of its own options (2.1.1, structs.py).

    A test runner would show it with every failing test.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Field type should not be", DeprecationWarning)
        yield


class Writer:
    """Writes a section with an interface a hop, then frames as they are given."""

    @silently()
    def __init__(
        self, file: IO[bytes], hops: Sequence[tuple[str, str]], expression: str = ""
    ) -> None:
        """Write the section's header, and of each hop its name and description, to `file`.

        `expression` is the capture filter that the frames have passed.
        """
        passed = {"if_filter": [(0, expression.encode())]} if expression else {}
        self._section = SectionHeader(endianness="<", options={"shb_userappl": "labctl"})
        self._interfaces: dict[str, Any] = {}
        self._ids = PacketIds()
        for name, description in hops:
            self._interfaces[name] = self._section.new_member(
                InterfaceDescription,
                link_type=link_types.ETHERNET,
                snaplen=0,
                options={
                    "if_name": name,
                    "if_description": description,
                    "if_tsresol": _NANOSECONDS,
                    **passed,
                },
            )
        self._writer = FileWriter(file, self._section)

    @silently()
    def frame(self, seen: Observation) -> None:
        """Write one frame."""
        block = self._section.new_member(
            EnhancedPacket,
            interface_id=self._interfaces[seen.hop].interface_id,
            timestamp_high=seen.time_ns >> 32,
            timestamp_low=seen.time_ns & 0xFFFFFFFF,
            packet_len=seen.record.original_length,
            packet_data=seen.record.frame,
            options={
                "opt_comment": comment(seen),
                "epb_flags": flags(seen),
                "epb_packetid": self._ids(seen),
            },
        )
        self._writer.write_block(block)

    @silently()
    def statistics(self, hop: str, trailer: Trailer, wanted: int, written: int) -> None:
        """Write what a hop's kernel and its observer counted, at its end.

        `wanted` frames passed the filter, of which `written` are in the file.
        """
        block = self._section.new_member(
            InterfaceStatistics,
            interface_id=self._interfaces[hop].interface_id,
            timestamp_high=trailer.clock_ns >> 32,
            timestamp_low=trailer.clock_ns & 0xFFFFFFFF,
            options={
                "opt_comment": f"{ERRORS} {trailer.errors}",
                "isb_ifrecv": trailer.packets,
                "isb_ifdrop": trailer.drops,
                "isb_filteraccept": wanted,
                "isb_usrdeliv": written,
            },
        )
        self._writer.write_block(block)


def flags(seen: Observation) -> int:
    """Return `epb_flags`: the direction, and what the kernel knew of the checksum."""
    known = _DIRECTIONS[seen.direction] | _METADATA[seen.judgement.metadata]
    if seen.record.vnet.gso_type & ~GSO_ECN in (GSO_TCPV4, GSO_TCPV6):
        known |= EPB_TCP_SEGMENTATION
    return known


def comment(seen: Observation) -> str:
    """Return what stands beside a frame for a reader."""
    text = seen.judgement.describe()
    if seen.judgement.lost:
        text += " - nobody will finish this checksum"
    vnet = seen.record.vnet
    if any(vnet.pack()):
        fields = ", ".join(f"{one.name} {getattr(vnet, one.name)}" for one in _FIELDS)
        text += f" - {VNET} {fields}"
    return text


def description(hop: HopEvidence) -> str:
    """Return what is known of a hop whose capture has ended."""
    words = [_about(hop.header)] if hop.header else []
    if hop.trailer is None:
        words.append(f"cut: {hop.note}")
    else:
        words.append(f"dropped by the kernel: {hop.trailer.drops}")
        words.append(f"{ERRORS} {hop.trailer.errors}")
    if hop.left_out:
        words.append(f"not kept: {hop.left_out}")
    times = (
        (BEGAN, hop.header and hop.header.clock_ns),
        (ARRIVED, hop.arrived_ns),
        (ASKED, hop.asked_ns),
        (ENDED, hop.trailer and hop.trailer.clock_ns),
    )
    words += [f"{name} {time_ns} ns" for name, time_ns in times if time_ns]
    return "; ".join(words)


def begun(header: Header, arrived_ns: int | None) -> str:
    """Return what is known of a hop whose capture has begun, and `arrived_ns` on our clock."""
    words = [_about(header), f"{BEGAN} {header.clock_ns} ns"]
    words += [f"{ARRIVED} {arrived_ns} ns"] if arrived_ns else []
    return "; ".join(words)


def _about(header: Header) -> str:
    return f"{header.interface}, MTU {header.mtu}, Linux {header.kernel}"
