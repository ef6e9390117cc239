"""The user-space router with something else done to each packet's checksum or metadata.

    python -m labctl.routers.rewriting --how WORD --netns NAME IFACE IFACE...

It is `labctl.routers.raw` with the virtio header (PACKET_VNET_HDR); `CHANGES` has what a packet
and its header go through before it is forwarded, by the word. All else is the same program.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from labctl.packet.af_packet import TP_STATUS_CSUMNOTREADY
from labctl.packet.checksum import Checksum, Judgement, classify
from labctl.packet.frame import CHECKSUM_OFFSETS, TCP, UDP
from labctl.packet.virtio import VNET_NEEDS_CSUM, VNET_SIZE, VnetHeader
from labctl.routers import raw

Change = Callable[[bytearray, int], bool]
"""Changes a message, a frame behind its virtio header, of which the packet socket told a status
(tp_status); returns whether it is to be forwarded."""


def zero(message: bytearray, _status: int) -> bool:
    """Empty the virtio header."""
    message[:VNET_SIZE] = bytes(VNET_SIZE)
    return True


def synthesise(message: bytearray, status: int) -> bool:
    """Make a virtio header of the status word alone: where the sum starts is in the frame."""
    zero(message, status)
    if status & TP_STATUS_CSUMNOTREADY and (judged := _summed(message)):
        packet = judged.packet
        at, number = packet.l4_offset or 0, packet.protocol_number or 0
        header = VnetHeader(VNET_NEEDS_CSUM, 0, 0, 0, at, CHECKSUM_OFFSETS[number])
        message[:VNET_SIZE] = header.pack()
    return True


def recompute(message: bytearray, status: int) -> bool:
    """Write the right checksum of TCP or UDP, whatever stands there; the header is empty then."""
    zero(message, status)
    judged = _summed(message)
    if judged and judged.state is not Checksum.ABSENT:
        packet = judged.packet
        place = (packet.l4_offset or 0) + CHECKSUM_OFFSETS[packet.protocol_number or 0]
        right, at = _full_sum(message, place), VNET_SIZE + place
        if right is not None:
            message[at : at + 2] = right.to_bytes(2, "big")
    return True


def _full_sum(message: bytearray, place: int) -> int | None:
    """Return the checksum that is right for a packet; None where its headers do not tell."""
    frame = bytearray(message[VNET_SIZE:])
    frame[place : place + 2] = b"\x00\x01"  # what was there may look unfinished; 0 is no sum at all
    return classify(bytes(frame)).expected


def recompute_unready(message: bytearray, status: int) -> bool:
    """Do so where the status word says that the checksum is not ready, and nowhere else."""
    if status & TP_STATUS_CSUMNOTREADY:
        return recompute(message, status)
    return zero(message, status)


def damage(message: bytearray, _status: int) -> bool:
    """Change the last byte of a payload; checksum and header say nothing of it."""
    judged = _summed(message)
    if judged and (at := _payload_end(message, judged)):
        message[at] ^= 0xFF
    return True


def damage_summed(message: bytearray, status: int) -> bool:
    """Finish the checksum, and then change the last byte of the payload."""
    recompute(message, status)
    return damage(message, status)


def refuse_syn(message: bytearray, _status: int) -> bool:
    """Let everything pass but the first segment of a TCP connection."""
    judged = _summed(message)
    return judged is None or judged.kind != "SYN"


class DropTenth:
    """Let nine packets pass, and not the tenth."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, _message: bytearray, _status: int) -> bool:
        """Return whether this one passes."""
        self.seen += 1
        return self.seen % 10 != 0


@dataclass(frozen=True)
class Translate:
    """Hide one IPv4 address behind another, with an incremental update of every sum on the way.

    The update is that of a finished sum (RFC 1624, eqn. 3), whatever the metadata says.
    """

    inside: bytes
    outside: bytes

    def __call__(self, message: bytearray, _status: int) -> bool:
        """Translate the source outwards, the destination inwards; everything passes."""
        packet = classify(bytes(message[VNET_SIZE:])).packet
        if packet.family != "ipv4" or packet.l3_offset is None:
            return True
        head = VNET_SIZE + packet.l3_offset
        for at, before, then in (
            (head + 12, self.inside, self.outside),
            (head + 16, self.outside, self.inside),
        ):
            if message[at : at + 4] != before:
                continue
            message[at : at + 4] = then
            _update(message, head + 10, before, then)
            number = packet.protocol_number
            if number in (TCP, UDP) and packet.l4_offset is not None and not packet.fragment:
                field = VNET_SIZE + packet.l4_offset + CHECKSUM_OFFSETS[number]
                _update(message, field, before, then)
            break
        return True


def _update(message: bytearray, at: int, before: bytes, then: bytes) -> None:
    """Carry a change into a checksum as if it were finished: HC' = ~(~HC + ~m + m')."""
    total = ~int.from_bytes(message[at : at + 2], "big") & 0xFFFF
    for word in range(0, len(before), 2):
        total += ~int.from_bytes(before[word : word + 2], "big") & 0xFFFF
        total += int.from_bytes(then[word : word + 2], "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    message[at : at + 2] = (~total & 0xFFFF).to_bytes(2, "big")


CHANGES: Mapping[str, Change] = {
    "zero": zero,
    "synthesise": synthesise,
    "recompute": recompute,
    "recompute-unready": recompute_unready,
    "damage": damage,
    "damage-summed": damage_summed,
    "refuse-syn": refuse_syn,
}


def _summed(message: bytearray) -> Judgement | None:
    """Return a TCP or UDP packet as it is judged by its bytes; None for any other frame."""
    judged = classify(bytes(message[VNET_SIZE:]))
    packet = judged.packet
    is_whole = packet.protocol_number in (TCP, UDP) and not (packet.fragment or packet.truncated)
    return judged if is_whole and packet.l4_offset is not None else None


def _payload_end(message: bytearray, judged: Judgement) -> int | None:
    """Return where the last byte of a payload is in a message; None where there is no payload."""
    packet = judged.packet
    begin, length = packet.l4_offset or 0, packet.l4_length or 0
    tcp = packet.protocol_number == TCP
    header = (message[VNET_SIZE + begin + 12] >> 4) * 4 if tcp else 8
    end = VNET_SIZE + begin + length - 1
    return end if length > header and end < len(message) else None


class Rewriting(raw.Router):
    """The router that puts every packet through a change first."""

    def __init__(self, change: Change, names: Sequence[str], _vnet: bool) -> None:
        """Bind every port, with the virtio header."""
        self.change = change
        super().__init__(names, vnet=True)

    def admit(self, message: bytearray, status: int) -> bool:
        """Change a message; return whether it is forwarded."""
        return self.change(message, status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    words = argparse.ArgumentParser(prog="rewriting", add_help=False)
    choices = [*CHANGES, "drop-tenth", "translate"]
    words.add_argument("--how", choices=choices, required=True, help="what is done to packets")
    for name in ("--inside", "--outside"):
        words.add_argument(name, type=socket.inet_aton, default=bytes(4), help="to translate")
    asked, rest = words.parse_known_args(argv)
    change = CHANGES.get(asked.how, DropTenth())
    if asked.how == "translate":
        change = Translate(asked.inside, asked.outside)
    return raw.main(rest, kind=partial(Rewriting, change))


if __name__ == "__main__":
    sys.exit(main())
