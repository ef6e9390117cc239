"""Evidence of many hops in one pcapng file, and back.

One interface block an observation point (nanoseconds), one enhanced packet block a observation with
its direction and a comment that holds the judgement, so that Wireshark shows beside each packet
what tcpdump cannot: whether somebody will still finish its checksum. The way back reads it from
there: a packet's metadata is not in its bytes. An interface's description holds what bounds the
evidence: its MTU, the gaps, and what tells its clock from ours. So packet traces that are followed
from a file are those that were followed from the capture itself. Source: the pcapng specification,
sections 4.2 and 4.3 (draft-ietf-opsawg-pcapng).
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import os
import re
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pcapng import FileScanner, FileWriter
from pcapng.blocks import EnhancedPacket, InterfaceDescription, SectionHeader
from pcapng.exceptions import PcapngException

from labctl.capture.session import Evidence, HopEvidence, Observation
from labctl.errors import LabctlError
from labctl.kinds.observers.stream import Direction, Header, Record, Trailer
from labctl.packet import link_types
from labctl.packet.af_packet import (
    PACKET_OUTGOING,
    TP_STATUS_CSUM_VALID,
    TP_STATUS_CSUMNOTREADY,
    UNTOLD,
)
from labctl.packet.checksum import Metadata
from labctl.packet.virtio import GSO_TYPES, VnetHeader
from labctl.sandbox import atomic

_NANOSECONDS = b"\x09"
_FIELDS = dataclasses.fields(VnetHeader)
_FLAGS: dict[Direction, int] = {"in": 1, "out": 2}
_STATUS = {
    str(Metadata.NEEDS_CSUM): TP_STATUS_CSUMNOTREADY,
    str(Metadata.DATA_VALID): TP_STATUS_CSUM_VALID,
    str(Metadata.UNTOLD): UNTOLD,
}
BEGAN, ENDED = "its clock at the start:", "its clock at the end:"
ARRIVED, ASKED = "our clock when it had started:", "our clock when it was to end:"
"""The times of a hop in its interface's description, each followed by nanoseconds."""
_VNET = "virtio header:"
"""In a packet's comment, followed by the header's fields where any of them says something."""
_DAMAGE = (PcapngException, ValueError, TypeError, LookupError, struct.error)
"""What python-pcapng raises of bytes that it cannot make sense of. It looks at a block's options
only when they are asked for, so each may come at any time."""


class PcapngError(LabctlError):
    """The file is not a pcapng file, or is damaged."""


@contextlib.contextmanager
def _silently() -> Iterator[None]:
    """Leave out what python-pcapng warns of in its own use of its own options (2.1.1, structs.py).

    A test runner would show it with every failing test.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Field type should not be", DeprecationWarning)
        yield


@_silently()
def write(path: Path, hops: Iterable[HopEvidence]) -> int:
    """Write the hops' observations in the order of their clocks; return how many.

    The file appears under its name only when it is whole.
    """
    hops = tuple(hops)
    section = SectionHeader(endianness="<", options={"shb_userappl": "labctl"})
    interfaces: dict[str, Any] = {}
    for hop in hops:
        interfaces[hop.hop] = section.new_member(
            InterfaceDescription,
            link_type=link_types.ETHERNET,
            snaplen=0,
            options={
                "if_name": hop.hop,
                "if_description": _description(hop),
                "if_tsresol": _NANOSECONDS,
            },
        )
    count = 0
    with atomic.writing(path, atomic.public()) as file:
        writer = FileWriter(file, section)
        for seen in heapq.merge(*(_by_time(hop) for hop in hops), key=lambda s: s.time_ns):
            writer.write_block(_block(section, interfaces[seen.hop], seen))
            count += 1
    return count


@_silently()
def read(path: Path) -> Evidence:
    """Return what a capture of labctl's holds, hop by hop in the order it was written.

    Raises `PcapngError` where it is damaged or no pcapng file, `OSError` where it cannot be read.
    """
    with path.open("rb") as file:
        try:
            return _evidence(file)
        except _DAMAGE as wrong:
            raise PcapngError(f"{path.name} is no whole pcapng file: {wrong}") from wrong


class _Rest:
    """A file of which no more is asked for than there is.

    Python makes room for as many bytes as `read` is to return, and a block of 60 bytes may claim
    to have 4 GiB.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = os.fstat(file.fileno()).st_size

    def read(self, size: int) -> bytes:
        data = self._file.read(max(0, min(size, self._left)))
        self._left -= len(data)
        return data

    def tell(self) -> int:
        return self._file.tell()


def _evidence(file: BinaryIO) -> Evidence:
    hops: list[tuple[str, str]] = []
    seen: list[list[Any]] = []
    for block in FileScanner(_Rest(file)):
        if isinstance(block, InterfaceDescription):
            options = block.options
            hops.append((options.get("if_name", ""), options.get("if_description", "")))
            seen.append([])
        elif isinstance(block, EnhancedPacket):
            seen[block.interface_id].append(block)
    return Evidence(tuple(_hop(*about, blocks) for about, blocks in zip(hops, seen, strict=True)))


def _by_time(hop: HopEvidence) -> list[Observation]:
    return sorted(hop.observations, key=lambda seen: seen.time_ns)


def _description(hop: HopEvidence) -> str:
    words = []
    if hop.header:
        words.append(f"{hop.header.interface}, MTU {hop.header.mtu}, Linux {hop.header.kernel}")
    if hop.trailer is None:
        words.append(f"cut: {hop.note}")
    else:
        words.append(f"dropped by the kernel: {hop.trailer.drops}")
        words.append(f"receive errors: {hop.trailer.errors}")
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


def _block(section: Any, interface: Any, seen: Observation) -> Any:
    comment = seen.judgement.describe()
    if seen.judgement.lost:
        comment += " - nobody will finish this checksum"
    vnet = seen.record.vnet
    if any(vnet.pack()):
        fields = ", ".join(f"{one.name} {getattr(vnet, one.name)}" for one in _FIELDS)
        comment += f" - {_VNET} {fields}"
    return section.new_member(
        EnhancedPacket,
        interface_id=interface.interface_id,
        timestamp_high=seen.time_ns >> 32,
        timestamp_low=seen.time_ns & 0xFFFFFFFF,
        packet_len=seen.record.original_length,
        packet_data=seen.record.frame,
        options={"opt_comment": comment, "epb_flags": _FLAGS[seen.direction]},
    )


def _hop(name: str, description: str, blocks: Sequence[Any]) -> HopEvidence:
    found = re.search(r"\bMTU ([0-9]{1,9})\b", description)
    mtu = int(found[1]) if found else None
    observations = []
    for block in blocks:
        record = _record(block)
        observations.append(Observation(name, record, record.classify(mtu)))
    arrived_ns, asked_ns = (_time(name, description) for name in (ARRIVED, ASKED))
    header = _header(name, description)
    told = re.search(r"dropped by the kernel: (\d+)", description)
    more = re.search(r"not kept: (\d+)", description)
    left_out = int(more[1]) if more else 0
    if not told:
        note = description.partition("cut: ")[2] or "what was lost is not known"
        for mark in ("; not kept:", f"; {BEGAN}", f"; {ARRIVED}", f"; {ASKED}"):
            note = note.partition(mark)[0]
        return HopEvidence(
            name, tuple(observations), header, None, note, arrived_ns, asked_ns, left_out
        )
    drops = int(told[1])
    failed = re.search(r"receive errors: (\d+)", description)  # not told in older records
    errors = int(failed[1]) if failed else 0
    ended_ns = _time(ENDED, description) or 0  # not told in older records
    trailer = Trailer(len(blocks) + drops, drops, len(blocks), errors, ended_ns)
    return HopEvidence(
        name, tuple(observations), header, trailer, "", arrived_ns, asked_ns, left_out
    )


def _time(name: str, description: str) -> int | None:
    found = re.findall(rf"{name} ([0-9]{{1,20}}) ns", description)
    return int(found[-1]) if found else None  # what an observer in a guest wrote stands before it


def _header(name: str, description: str) -> Header | None:
    """Return what is kept of a hop's header; None for an older record, which has no clock."""
    began_ns = _time(BEGAN, description)
    about = re.match(r"(.*?), MTU ([0-9]{1,9}), Linux ([^;]*)", description)
    if began_ns is None or about is None:
        return None
    return Header(name, about[1], 0, int(about[2]), 0, began_ns, about[3], "")


def _record(block: Any) -> Record:
    options = block.options
    words = set(re.findall(r"\w+", options.get("opt_comment", "").partition(" - ")[0]))
    status = 0
    for word, bit in _STATUS.items():
        if word in words:
            status |= bit
    gso = next((number for name, number in GSO_TYPES.items() if name in words), 0)
    out = "epb_flags" in options and options["epb_flags"].inout == "outbound"
    return Record(
        time_ns=block.timestamp_high << 32 | block.timestamp_low,
        pkttype=PACKET_OUTGOING if out else 0,
        ifindex=0,
        status=status,
        original_length=block.packet_len,
        vnet=_vnet(options.get("opt_comment", "")) or VnetHeader(0, gso, 0, 0, 0, 0),
        frame=block.packet_data,
    )


def _vnet(comment: str) -> VnetHeader | None:
    """Read the virtio header from a comment; None where it is not told, as in older records.

    Raises `struct.error` for numbers that no such header can hold.
    """
    told = comment.partition(f" - {_VNET} ")[2]
    if not told:
        return None
    numbers = re.findall(r"\w+ ([0-9]{1,9})(?:, |$)", told)
    vnet = VnetHeader(*map(int, numbers))
    vnet.pack()
    return vnet
