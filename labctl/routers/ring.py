"""A wire in user space over rings of packet sockets: the program behind the link kind `ring-wire`.

    python -m labctl.routers.ring [--sums] LINK LINK

Frames come out of a ring of blocks that the kernel fills (TPACKET_V3, PACKET_RX_RING) and go out by
the other link, as they are. Beside each frame the ring has the status word that says whether its
checksum is ready: with `--sums` it is computed where it is not, else nobody looks at it. It writes
`carrying` once nothing is missed, and goes on until it is killed.
Source: Documentation/networking/packet_mmap.rst, include/uapi/linux/if_packet.h.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import select
import socket
import struct
import sys
from collections.abc import Iterator, Sequence

from labctl.packet.af_packet import (
    ETH_P_ALL,
    PACKET_IGNORE_OUTGOING,
    SOL_PACKET,
    TP_STATUS_CSUMNOTREADY,
)
from labctl.packet.virtio import VNET_SIZE
from labctl.routers.rewriting import recompute

_PACKET_RX_RING, _PACKET_VERSION, _TPACKET_V3 = 5, 10, 2
_BLOCK_BYTES, _BLOCKS, _FRAME_BYTES, _RETIRE_MS = 1 << 18, 8, 1 << 11, 1
"""A super-frame fits into a block; frames there have no fixed size (tpacket_rcv())."""
_REQUEST = struct.Struct("7I")
"""struct tpacket_req3."""
_BLOCK = struct.Struct("=8xIII")
"""struct tpacket_block_desc: block_status, num_pkts, offset_to_first_pkt."""
_FRAME = struct.Struct("=I8xIIIH")
"""struct tpacket3_hdr: tp_next_offset, tp_snaplen, tp_len, tp_status, tp_mac."""
_KERNEL, _USER, _STATUS_AT = 0, 1, 8


class Ring:
    """A packet socket at a link, and the ring of what came in by it."""

    def __init__(self, link: str) -> None:
        """Bind to the link; raises `OSError`."""
        # Protocol 0 receives nothing until bind, so that no frame comes before there is a ring.
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
        frames = _BLOCK_BYTES * _BLOCKS // _FRAME_BYTES
        request = _REQUEST.pack(_BLOCK_BYTES, _BLOCKS, _FRAME_BYTES, frames, _RETIRE_MS, 0, 0)
        self.socket.setsockopt(SOL_PACKET, _PACKET_RX_RING, request)
        self.socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self._memory = mmap.mmap(self.socket.fileno(), _BLOCK_BYTES * _BLOCKS)
        self._block = 0
        self.socket.bind((link, ETH_P_ALL))

    def frames(self) -> Iterator[tuple[bytes, int]]:
        """Yield what has come, each frame with its tp_status; blocks go back to the kernel."""
        while True:
            base = self._block * _BLOCK_BYTES
            status, count, first = _BLOCK.unpack_from(self._memory, base)
            if not status & _USER:
                return
            at = base + first
            for _ in range(count):
                beyond, kept, _, told, mac = _FRAME.unpack_from(self._memory, at)
                yield self._memory[at + mac : at + mac + kept], told
                at += beyond
            struct.pack_into("=I", self._memory, base + _STATUS_AT, _KERNEL)
            self._block = (self._block + 1) % _BLOCKS


def summed(frame: bytes, status: int) -> bytes:
    """Return a frame with its checksum computed, where its status says that it is not ready."""
    if not status & TP_STATUS_CSUMNOTREADY:
        return frame
    message = bytearray(VNET_SIZE) + frame
    recompute(message, status)
    return bytes(message[VNET_SIZE:])


def carry(one: Ring, other: Ring, *, sums: bool) -> None:
    """Carry frames both ways, for ever."""
    across = {one.socket: (one, other), other.socket: (other, one)}
    while True:
        for found in select.select([*across], [], [])[0]:
            source, target = across[found]
            for frame, status in source.frames():
                # The link is down, or a super-frame is longer than the MTU.
                with contextlib.suppress(OSError):
                    target.socket.send(summed(frame, status) if sums else frame)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; it returns only where it cannot begin."""
    words = argparse.ArgumentParser(prog="ring")
    words.add_argument("--sums", action="store_true", help="compute sums that are not ready")
    words.add_argument("links", nargs=2, metavar="LINK")
    asked = words.parse_args(argv)
    try:
        one, other = (Ring(link) for link in asked.links)
    except OSError as wrong:
        sys.stderr.write(f"cannot carry between {' and '.join(asked.links)}: {wrong}\n")
        return 1
    sys.stdout.write("carrying\n")
    sys.stdout.flush()
    carry(one, other, sums=asked.sums)
    return 0


if __name__ == "__main__":
    sys.exit(main())
