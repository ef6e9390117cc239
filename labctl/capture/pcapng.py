"""Evidence of many hops in one pcapng file, and back.

One interface block an observation point (nanoseconds), one enhanced packet block a observation with
its flags and a comment that holds the judgement, so that Wireshark shows beside each packet what
tcpdump cannot: whether somebody will still finish its checksum. The way back reads it from there: a
packet's metadata is not in its bytes. An interface's description holds what bounds the
evidence: its MTU, the gaps, and what tells its clock from ours. So packet traces that are followed
from a file are those that were followed from the capture itself. Source: the pcapng specification,
sections 4.2 and 4.3 (draft-ietf-opsawg-pcapng).
"""

from __future__ import annotations

import heapq
import os
import re
import stat
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pcapng import FileScanner
from pcapng.blocks import EnhancedPacket, InterfaceDescription, InterfaceStatistics
from pcapng.exceptions import PcapngException

from labctl.capture.pcapng_writer import (
    ARRIVED,
    ASKED,
    BEGAN,
    ENDED,
    ERRORS,
    OUT,
    VNET,
    Writer,
    description,
    silently,
)
from labctl.capture.session import Evidence, HopEvidence, Observation
from labctl.errors import LabctlError
from labctl.kinds.observers.stream import Header, Record, Trailer
from labctl.packet.af_packet import (
    PACKET_OUTGOING,
    TP_STATUS_CSUM_VALID,
    TP_STATUS_CSUMNOTREADY,
    UNTOLD,
)
from labctl.packet.checksum import Metadata
from labctl.packet.virtio import (
    EPB_CHECKSUM_NOT_READY,
    EPB_CHECKSUM_VALID,
    GSO_TYPES,
    VnetHeader,
)
from labctl.sandbox import atomic

_STATUS = {
    str(Metadata.NEEDS_CSUM): TP_STATUS_CSUMNOTREADY,
    str(Metadata.DATA_VALID): TP_STATUS_CSUM_VALID,
    str(Metadata.UNTOLD): UNTOLD,
}
_MARKS = {
    EPB_CHECKSUM_NOT_READY: TP_STATUS_CSUMNOTREADY,
    EPB_CHECKSUM_VALID: TP_STATUS_CSUM_VALID,
}
_DAMAGE = (PcapngException, ValueError, TypeError, LookupError, struct.error)
"""What python-pcapng raises of bytes that it cannot make sense of. It looks at a block's options
only when they are asked for, so each may come at any time."""


class PcapngError(LabctlError):
    """The file is not a pcapng file, or is damaged."""


def write(path: Path, hops: Iterable[HopEvidence]) -> int:
    """Write the hops' observations in the order of their clocks; return how many.

    The file appears under its name only when it is whole.
    """
    hops = tuple(hops)
    count = 0
    with atomic.writing(path, atomic.public()) as file:
        writer = Writer(file, [(hop.hop, description(hop)) for hop in hops])
        for seen in heapq.merge(*(_by_time(hop) for hop in hops), key=lambda s: s.time_ns):
            writer.frame(seen)
            count += 1
    return count


@silently()
def read(path: Path) -> Evidence:
    """Return what a capture of labctl's holds, hop by hop in the order it was written.

    Raises `PcapngError` where it is damaged or no pcapng file, `OSError` where it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):  # a pipe would have us wait
            raise PcapngError(f"{path.name} is no file")
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
    counted: list[Any] = []
    for block in FileScanner(_Rest(file)):
        if isinstance(block, InterfaceDescription):
            options = block.options
            hops.append((options.get("if_name", ""), options.get("if_description", "")))
            seen.append([])
            counted.append(None)
        elif isinstance(block, EnhancedPacket):
            seen[block.interface_id].append(block)
        elif isinstance(block, InterfaceStatistics):
            counted[block.interface_id] = block
    found = zip(hops, seen, counted, strict=True)
    return Evidence(tuple(_hop(*about, blocks, told) for about, blocks, told in found))


def _by_time(hop: HopEvidence) -> list[Observation]:
    return sorted(hop.observations, key=lambda seen: seen.time_ns)


def _hop(name: str, description: str, blocks: Sequence[Any], statistics: Any) -> HopEvidence:
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
    if statistics is not None:  # written as it came: the description knew nothing of the end
        trailer, left_out = _counted(statistics, len(blocks))
        return HopEvidence(
            name, tuple(observations), header, trailer, "", arrived_ns, None, left_out
        )
    if not told:
        note = description.partition("cut: ")[2] or "what was lost is not known"
        for mark in ("; not kept:", f"; {BEGAN}", f"; {ARRIVED}", f"; {ASKED}"):
            note = note.partition(mark)[0]
        return HopEvidence(
            name, tuple(observations), header, None, note, arrived_ns, asked_ns, left_out
        )
    drops = int(told[1])
    failed = re.search(rf"{ERRORS} (\d+)", description)  # not told in older records
    errors = int(failed[1]) if failed else 0
    ended_ns = _time(ENDED, description) or 0  # not told in older records
    trailer = Trailer(len(blocks) + drops, drops, len(blocks), errors, ended_ns)
    return HopEvidence(
        name, tuple(observations), header, trailer, "", arrived_ns, asked_ns, left_out
    )


def _counted(block: Any, written: int) -> tuple[Trailer, int]:
    """Read what stands at the end of a capture that was written as it came.

    Returns it, and how many frames were to be written and were not.
    """
    options = block.options
    failed = re.search(rf"{ERRORS} ([0-9]{{1,9}})", options.get("opt_comment", ""))
    ended_ns = block.timestamp_high << 32 | block.timestamp_low
    received, drops = int(options["isb_ifrecv"]), int(options["isb_ifdrop"])
    trailer = Trailer(received, drops, written, int(failed[1]) if failed else 0, ended_ns)
    return trailer, max(
        0, int(options.get("isb_filteraccept", 0)) - int(options.get("isb_usrdeliv", 0))
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
    flags = int(options["epb_flags"]) if "epb_flags" in options else 0
    for mark, bit in _MARKS.items():
        if flags & mark:
            status |= bit
    return Record(
        time_ns=block.timestamp_high << 32 | block.timestamp_low,
        pkttype=PACKET_OUTGOING if flags & 3 == OUT else 0,
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
    told = comment.partition(f" - {VNET} ")[2]
    if not told:
        return None
    numbers = re.findall(r"\w+ ([0-9]{1,9})(?:, |$)", told)
    vnet = VnetHeader(*map(int, numbers))
    vnet.pack()
    return vnet
