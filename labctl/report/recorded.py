"""Evidence back from a recorded capture: the hops, in the order of the path, and what they saw.

A packet's metadata is not in its bytes; the file keeps it in each packet's comment, its size limits
and gaps in each interface's description (see `labctl.capture.pcapng`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcapng import FileScanner
from pcapng.blocks import EnhancedPacket, InterfaceDescription
from pcapng.exceptions import PcapngException

from labctl.capture.judge import (
    TP_STATUS_CSUM_VALID,
    TP_STATUS_CSUMNOTREADY,
    Metadata,
    VnetHeader,
)
from labctl.capture.pcapng import PcapngError
from labctl.capture.session import Evidence, HopEvidence, Sighting
from labctl.capture.stream import PACKET_OUTGOING, Record, Trailer
from labctl.lab.path import Hop, node_hops, router_hops
from labctl.topology.model import Topology

_GSO = {"tcpv4": 1, "udp": 3, "tcpv6": 4, "udp_l4": 5}
_STATUS = {
    str(Metadata.NEEDS_CSUM): TP_STATUS_CSUMNOTREADY,
    str(Metadata.DATA_VALID): TP_STATUS_CSUM_VALID,
}


def read(path: Path) -> Evidence:
    """Return what a capture of labctl's holds, hop by hop in the order it was written.

    Raises `PcapngError` where it is damaged or no pcapng file, `OSError` where it cannot be read.
    """
    hops: list[tuple[str, str]] = []
    seen: list[list[Any]] = []
    with path.open("rb") as file:
        try:
            for block in FileScanner(file):
                if isinstance(block, InterfaceDescription):
                    options = block.options
                    hops.append((options.get("if_name", ""), options.get("if_description", "")))
                    seen.append([])
                elif isinstance(block, EnhancedPacket):
                    seen[block.interface_id].append(block)
        except (PcapngException, ValueError, KeyError, IndexError) as wrong:
            raise PcapngError(f"{path.name} is no whole pcapng file: {wrong}") from wrong
    return Evidence(tuple(_hop(*about, blocks) for about, blocks in zip(hops, seen, strict=True)))


def _hop(name: str, description: str, blocks: Sequence[Any]) -> HopEvidence:
    found = re.search(r"MTU (\d+)", description)
    mtu = int(found[1]) if found else None
    sightings = []
    for block in blocks:
        record = _record(block)
        sightings.append(Sighting(name, record, record.judge(mtu)))
    told = re.search(r"dropped by the kernel: (\d+)", description)
    if not told:
        note = description.partition("cut: ")[2] or "what was lost is not known"
        return HopEvidence(name, tuple(sightings), None, None, note)
    drops = int(told[1])
    failed = re.search(r"receive errors: (\d+)", description)  # not told in older records
    errors = int(failed[1]) if failed else 0
    trailer = Trailer(len(blocks) + drops, drops, len(blocks), errors, 0)
    return HopEvidence(name, tuple(sightings), None, trailer)


def _record(block: Any) -> Record:
    options = block.options
    words = set(re.findall(r"\w+", options.get("opt_comment", "").partition(" - ")[0]))
    status = 0
    for word, bit in _STATUS.items():
        if word in words:
            status |= bit
    gso = next((number for name, number in _GSO.items() if name in words), 0)
    out = "epb_flags" in options and options["epb_flags"].inout == "outbound"
    return Record(
        time_ns=block.timestamp_high << 32 | block.timestamp_low,
        pkttype=PACKET_OUTGOING if out else 0,
        ifindex=0,
        status=status,
        original_length=block.packet_len,
        vnet=VnetHeader(0, gso, 0, 0, 0, 0),
        frame=block.packet_data,
    )


def path_of(evidence: Evidence, nodes: Sequence[str], topology: Topology | None) -> tuple[Hop, ...]:
    """Return the path that the hops of `evidence` are, with what each belongs to.

    The topology tells; without one (an older record) the names do, `nodes` being the guests.
    """
    known = _known(topology) if topology else {}
    names = [hop.hop for hop in evidence.hops]
    found = []
    for number, name in enumerate(names):
        if name in known:
            found.append(known[name])
            continue
        owner, inside, link = name.partition(":")
        if inside:
            found.append(Hop(name, "guest" if owner in nodes else "router", owner, link))
            continue
        beside = [n for n in names[max(0, number - 1) : number + 2] if ":" in n]
        owners = [n.partition(":")[0] for n in beside]
        owner = next((o for o in owners if name.startswith(o)), owners[0] if owners else name)
        found.append(Hop(name, "host", owner, name))
    return tuple(found)


def _known(topology: Topology) -> dict[str, Hop]:
    hops: list[Hop] = []
    for node in topology.nodes.values():
        for one in node.interfaces:
            hops += node_hops(node, one)
    for router in topology.routers.values():
        for port in router.interfaces:
            hops += router_hops(router, port)
    return {hop.name: hop for hop in hops}
