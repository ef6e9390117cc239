"""Sightings of many hops in one pcapng file, and back.

One interface block an observation point (nanoseconds), one enhanced packet block a sighting with
its direction and a comment that holds the judgement, so that Wireshark shows beside each packet
what tcpdump cannot: whether somebody will still finish its checksum. Source: the pcapng
specification, sections 4.2 and 4.3 (draft-ietf-opsawg-pcapng).
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcapng import FileScanner, FileWriter
from pcapng.blocks import EnhancedPacket, InterfaceDescription, SectionHeader
from pcapng.exceptions import PcapngException

from labctl.capture.session import HopEvidence, Sighting
from labctl.capture.stream import Direction
from labctl.errors import LabctlError

ETHERNET = 1
_NANOSECONDS = b"\x09"
_FLAGS: dict[Direction, int] = {"in": 1, "out": 2}


class PcapngError(LabctlError):
    """The file is not a pcapng file, or is damaged."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One packet block as read back from a file."""

    interface: str
    """The interface block's name: the hop, where labctl wrote the file."""
    time_ns: int
    direction: Direction | None
    frame: bytes
    original_length: int
    comment: str


def write(path: Path, hops: Iterable[HopEvidence]) -> int:
    """Write the hops' sightings in the order of their clocks; return how many.

    The file appears under its name only when it is whole.
    """
    hops = tuple(hops)
    section = SectionHeader(endianness="<", options={"shb_userappl": "labctl"})
    interfaces: dict[str, Any] = {}
    for hop in hops:
        interfaces[hop.hop] = section.new_member(
            InterfaceDescription,
            link_type=ETHERNET,
            snaplen=0,
            options={
                "if_name": hop.hop,
                "if_description": _description(hop),
                "if_tsresol": _NANOSECONDS,
            },
        )
    count = 0
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            writer = FileWriter(file, section)
            for seen in heapq.merge(*(_by_time(hop) for hop in hops), key=lambda s: s.time_ns):
                writer.write_block(_block(section, interfaces[seen.hop], seen))
                count += 1
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return count


def read(path: Path) -> Iterator[Frame]:
    """Yield a file's packets; raises `PcapngError` where it is no pcapng file or is damaged."""
    with path.open("rb") as file:
        try:
            for block in FileScanner(file):
                if isinstance(block, EnhancedPacket):
                    yield _frame(block)
        except (PcapngException, ValueError, KeyError) as wrong:
            raise PcapngError(f"{path} is no whole pcapng file: {wrong}") from wrong


def _by_time(hop: HopEvidence) -> list[Sighting]:
    return sorted(hop.sightings, key=lambda seen: seen.time_ns)


def _description(hop: HopEvidence) -> str:
    words = []
    if hop.header:
        words.append(f"{hop.header.interface}, MTU {hop.header.mtu}, Linux {hop.header.kernel}")
    if hop.trailer is None:
        words.append(f"cut: {hop.note}")
    else:
        words.append(f"dropped by the kernel: {hop.trailer.drops}")
        words.append(f"receive errors: {hop.trailer.errors}")
    return "; ".join(words)


def _block(section: Any, interface: Any, seen: Sighting) -> Any:
    comment = seen.judgement.describe()
    if seen.judgement.lost:
        comment += " - nobody will finish this checksum"
    return section.new_member(
        EnhancedPacket,
        interface_id=interface.interface_id,
        timestamp_high=seen.time_ns >> 32,
        timestamp_low=seen.time_ns & 0xFFFFFFFF,
        packet_len=seen.record.original_length,
        packet_data=seen.record.frame,
        options={"opt_comment": comment, "epb_flags": _FLAGS[seen.direction]},
    )


def _frame(block: Any) -> Frame:
    options = block.options
    direction: Direction | None = None
    if "epb_flags" in options:
        inout = options["epb_flags"].inout
        direction = {"inbound": "in", "outbound": "out"}.get(inout)  # type: ignore[assignment]
    ticks = block.timestamp_high << 32 | block.timestamp_low
    resolution = block.interface.options.get("if_tsresol", b"\x06")[0]
    if resolution & 0x80:
        time_ns = ticks * 1_000_000_000 >> (resolution & 0x7F)
    else:
        time_ns = ticks * 1_000_000_000 // 10**resolution
    return Frame(
        block.interface.options.get("if_name", ""),
        time_ns,
        direction,
        block.packet_data,
        block.packet_len,
        options.get("opt_comment", ""),
    )
