"""A wire in user space: the program behind the link kind `packet-wire`.

    python -m labctl.routers.wire [--vnet] LINK LINK

Every frame that comes in by one link goes out by the other, as it is. Without `--vnet` only its
bytes do; with it also its virtio header (PACKET_VNET_HDR), which says whether the checksum is
still to be finished. It writes `carrying` once nothing is missed, and goes on until it is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import select
import socket
import sys
from collections.abc import Sequence

from labctl.packet.af_packet import (
    ETH_P_ALL,
    PACKET_IGNORE_OUTGOING,
    PACKET_VNET_HDR,
    SOL_PACKET,
)
from labctl.packet.frame import LONGEST_FRAME
from labctl.packet.virtio import VNET_SIZE


def open_port(link: str, vnet: bool) -> socket.socket:
    """Return a packet socket at a link that sees what comes in; raises `OSError`."""
    # Protocol 0 receives nothing until bind, so that no frame comes without its options.
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    if vnet:
        port.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    port.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    port.bind((link, ETH_P_ALL))
    return port


def carry(one: socket.socket, other: socket.socket) -> None:
    """Carry frames both ways, for ever."""
    across = {one: other, other: one}
    buffer = memoryview(bytearray(VNET_SIZE + LONGEST_FRAME))
    while True:
        readable, _, _ = select.select([one, other], [], [])
        for port in readable:
            # The link is down, or a super-frame without its header is longer than the MTU.
            with contextlib.suppress(OSError):
                size = port.recv_into(buffer)
                across[port].send(buffer[:size])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; it returns only where it cannot begin."""
    words = argparse.ArgumentParser(prog="wire")
    words.add_argument("--vnet", action="store_true", help="carry the virtio header along")
    words.add_argument("links", nargs=2, metavar="LINK")
    asked = words.parse_args(argv)
    try:
        one, other = (open_port(link, asked.vnet) for link in asked.links)
    except OSError as wrong:
        sys.stderr.write(f"cannot carry between {' and '.join(asked.links)}: {wrong}\n")
        return 1
    sys.stdout.write("carrying\n")
    sys.stdout.flush()
    carry(one, other)
    return 0


if __name__ == "__main__":
    sys.exit(main())
