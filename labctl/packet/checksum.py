"""What one frame's checksum field holds, and what its metadata promises: evidence at one hop.

A field is judged by arithmetic alone, the metadata is what the kernel said beside the bytes, and
the two are kept apart: `partial` with `needs_csum` is a packet on its way to be finished,
`partial` without it is one that the receiver will drop.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from labctl.packet.af_packet import TP_STATUS_CSUM_VALID, TP_STATUS_CSUMNOTREADY, UNTOLD
from labctl.packet.crc32c import sctp_crc32c
from labctl.packet.frame import CHECKSUM_OFFSETS, OUTSIDE_MTU, SCTP, TCP, UDP, Packet, parse
from labctl.packet.internet_checksum import ones_sum, pseudo_header_sum
from labctl.packet.tunnels import TUNNEL_PORTS, VXLAN_HEADER, decapsulate
from labctl.packet.virtio import VNET_DATA_VALID, VNET_NEEDS_CSUM, VnetHeader


class Checksum(StrEnum):
    """What the checksum field of the transport header holds."""

    PARTIAL = "partial"
    """The folded pseudo-header sum (SCTP: 0), left for a device to finish; around a tunnelled
    packet that is so, the sum that will be right once that one is finished (`_counts_on`)."""
    VALID = "valid"
    """The right sum."""
    BAD = "bad"
    """Neither of the two."""
    ABSENT = "absent"
    """UDP with 0, over IPv4 or in a tunnel: the sender made none."""
    UNKNOWN = "unknown"
    """Cannot be told: a fragment, a cut capture, lengths that contradict each other, or a protocol
    without such a checksum."""


class Metadata(StrEnum):
    """What the kernel knew about the checksum beside the packet's bytes."""

    NEEDS_CSUM = "needs_csum"
    """To be finished before it leaves the machine (CHECKSUM_PARTIAL)."""
    DATA_VALID = "data_valid"
    """Verified already (CHECKSUM_UNNECESSARY)."""
    NONE = "none"
    UNTOLD = "untold"
    """Not seen by who looked, such as tcpdump: whether there was any cannot be told."""

    @property
    def is_lacking(self) -> bool:
        """Whether it is known that nobody will finish an unfinished sum."""
        return self not in (Metadata.NEEDS_CSUM, Metadata.UNTOLD)


def metadata_of(status: int = 0, vnet: VnetHeader | None = None) -> Metadata:
    """Tell the metadata from a packet socket's tp_status and its virtio header."""
    flags = vnet.flags if vnet else 0
    if flags & VNET_NEEDS_CSUM or status & TP_STATUS_CSUMNOTREADY:
        return Metadata.NEEDS_CSUM
    if flags & VNET_DATA_VALID or status & TP_STATUS_CSUM_VALID:
        return Metadata.DATA_VALID
    return Metadata.UNTOLD if status & UNTOLD else Metadata.NONE


def knowledge(state: Checksum, metadata: Metadata, gso: str = "") -> str:
    """Say a field's state and what is known beside it, such as `partial, needs_csum`."""
    words = [str(state)]
    if metadata is Metadata.UNTOLD:
        words += ["metadata untold"] * (state is Checksum.PARTIAL)
    elif metadata is not Metadata.NONE:
        words.append(str(metadata))
    elif state is Checksum.PARTIAL:
        words.append("no metadata")
    if gso:
        words.append(f"gso {gso}")
    return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A frame's headers, the state of its checksum field, and its metadata."""

    packet: Packet
    state: Checksum
    metadata: Metadata
    field: int | None = None
    """The value in the checksum field, as it stands on the wire: 16 bits, 32 for SCTP."""
    expected: int | None = None
    """The value that would be `valid`."""
    pseudo_sum: int | None = None
    """The value that would be `partial`: `~tcp_v4_check(len, saddr, daddr, 0)` of the kernel's
    __tcp_v4_send_check(), which is the folded pseudo-header sum, not complemented. For SCTP, which
    has no pseudo-header, the 0 that sctp_packet_pack() leaves where the device can CRC32c."""
    gso: str = ""
    """Not empty for a frame that is more than one packet on a wire: the virtio header's GSO type,
    or `merged` for one longer than the MTU. tcp_gro_complete() writes the pseudo-header sum into
    merged frames even where offload is off, so their `partial` accuses nobody."""
    gso_size: int = 0

    @property
    def kind(self) -> str:
        """A short word for a reader, such as `SYN`, `UDP` or `ICMP echo`."""
        return self.packet.kind

    @property
    def lost(self) -> bool:
        """Whether this is a packet nobody will finish: `partial` without `needs_csum`.

        Never said of GSO or GRO frames.
        """
        return self.state is Checksum.PARTIAL and self.metadata.is_lacking and not self.gso

    @property
    def flow(self) -> tuple[str, str, int | None, str, int | None] | None:
        """Protocol, source and its port, destination and its port; None for what is not IP."""
        packet = self.packet
        if packet.protocol is None or packet.src is None or packet.dst is None:
            return None
        return (packet.protocol, packet.src, packet.sport, packet.dst, packet.dport)

    def describe(self) -> str:
        """Say kind, state and metadata in a few words, such as `SYN: partial, needs_csum`."""
        if self.packet.protocol_number not in CHECKSUM_OFFSETS:
            return self.kind
        words = [knowledge(self.state, self.metadata, self.gso)]
        if self.packet.fragment:
            words.append("fragment")
        if self.packet.truncated:
            words.append("capture cut")
        return f"{self.kind}: {', '.join(words)}"


def classify(
    frame: bytes,
    *,
    original_length: int | None = None,
    status: int = 0,
    vnet: VnetHeader | None = None,
    mtu: int | None = None,
) -> Judgement:
    """Judge one Ethernet frame (VLAN tags in place).

    `original_length` is the frame's length on the wire in bytes, `status` the packet socket's
    tp_status, `mtu` that of the interface it was seen on.
    """
    gso = vnet.gso if vnet else ""
    if not gso and mtu is not None and max(len(frame), original_length or 0) > mtu + OUTSIDE_MTU:
        gso = "merged"
    packet = parse(frame, original_length, gso=bool(gso))
    metadata = metadata_of(status, vnet)
    size = vnet.gso_size if vnet else 0

    def verdict(
        state: Checksum,
        value: int | None = None,
        expected: int | None = None,
        pseudo_sum: int | None = None,
    ) -> Judgement:
        return Judgement(packet, state, metadata, value, expected, pseudo_sum, gso, size)

    at, length, number = packet.l4_offset, packet.l4_length, packet.protocol_number
    if at is None or length is None or number is None or number not in CHECKSUM_OFFSETS:
        return verdict(Checksum.UNKNOWN)
    place, size_of_field = at + CHECKSUM_OFFSETS[number], 4 if number == SCTP else 2
    if packet.kind.startswith("malformed"):
        return verdict(Checksum.UNKNOWN)
    end = place + size_of_field
    if packet.fragment or len(frame) < end or end > at + length:
        return verdict(Checksum.UNKNOWN)
    value = int.from_bytes(frame[place:end], "big")
    if number == UDP:
        announced = int.from_bytes(frame[at + 4 : at + 6], "big")
        if announced and not 8 <= announced <= length:
            return verdict(Checksum.UNKNOWN, value)  # what is to be summed is not told
        length = announced or length  # 0: a jumbogram or super-frame, RFC 2675 section 4
        if value == 0:
            # Over IPv6 a receiver refuses 0 (RFC 8200 section 8.1), so there it is not "absent",
            # but that tunnels may agree on it (RFC 6935 section 5; ip-link(8), udp6zerocsumtx).
            allowed = packet.family == "ipv4" or packet.dport in TUNNEL_PORTS
            return verdict(Checksum.ABSENT if allowed else Checksum.BAD, value)
    pseudo = None if number == SCTP else _pseudo_residue(packet, number, length)
    pseudo_sum = None if pseudo is None else pseudo or 0xFFFF
    if number == SCTP:
        pseudo_sum = 0
    if len(frame) < at + length:
        told = metadata is Metadata.NEEDS_CSUM and value == pseudo_sum
        return verdict(Checksum.PARTIAL if told else Checksum.UNKNOWN, value, None, pseudo_sum)
    if number == SCTP:
        # The one checksum that goes over the wire lowest byte first (RFC 9260 appendix A).
        crc = int.from_bytes(sctp_crc32c(frame[at : at + length]).to_bytes(4, "little"), "big")
        left_open = Checksum.BAD if value else Checksum.PARTIAL
        return verdict(Checksum.VALID if value == crc else left_open, value, crc, pseudo_sum)
    total = ((pseudo or 0) + ones_sum(frame[at : at + length])) % 0xFFFF
    expected = 0xFFFF - (total - value) % 0xFFFF
    if number != UDP and expected == 0xFFFF:
        expected = 0  # csum_fold() of 0xffff; UDP alone sends it as 0xffff (CSUM_MANGLED_0)
    if total == 0:
        state = Checksum.VALID  # by chance a full sum may equal the pseudo-header's: valid wins
    elif value == pseudo_sum and number in (TCP, UDP):
        state = Checksum.PARTIAL
    elif number == UDP and _counts_on(frame, packet, pseudo or 0, vnet):
        state, expected = Checksum.PARTIAL, value
    else:
        state = Checksum.BAD
    return verdict(state, value, expected, pseudo_sum)


def _counts_on(frame: bytes, packet: Packet, pseudo: int, vnet: VnetHeader | None) -> bool:
    """Tell whether a tunnel's UDP sum will be right once the packet inside is finished.

    Local Checksum Offload (kernel: Documentation/networking/checksum-offloads.rst, udp_set_csum()
    in net/ipv4/udp.c, lco_csum() in include/linux/skbuff.h): from where a finished sum begins, all
    bytes add up to the complement of what its field held before, the pseudo-header's sum. So the
    kernel sums the headers up to there, and that complement in place of the rest. Where the inner
    sum begins is told by the virtio header, else found as the kernel would have left it.
    """
    at = packet.l4_offset or 0
    places = [_unfinished(frame, packet)]
    if vnet and vnet.flags & VNET_NEEDS_CSUM and vnet.csum_start > at:
        places.append((vnet.csum_start, vnet.csum_start + vnet.csum_offset))
    for start, place in (found for found in places if found):
        held = int.from_bytes(frame[place : place + 2], "big")
        if (pseudo + ones_sum(frame[at:start]) + 0xFFFF - held) % 0xFFFF == 0:
            return True
    return False


def _unfinished(frame: bytes, packet: Packet) -> tuple[int, int] | None:
    """Return where the sum left open inside a tunnel begins, and where its field is."""
    base = 0
    while inner := decapsulate(frame, packet):
        base += (packet.l4_offset or 0) + VXLAN_HEADER
        frame, packet = inner.frame, parse(inner.frame, inner.original_length)
        at, length, number = packet.l4_offset, packet.l4_length, packet.protocol_number
        if packet.fragment or at is None or length is None or number not in (TCP, UDP):
            return None
        place = at + CHECKSUM_OFFSETS[number]
        sum_left = _pseudo_residue(packet, number, length) or 0xFFFF
        if place + 2 <= len(frame) and int.from_bytes(frame[place : place + 2], "big") == sum_left:
            return base + at, base + place
    return None


def _pseudo_residue(packet: Packet, number: int, length: int) -> int | None:
    """Return the pseudo-header's sum modulo 0xffff; None for ICMP, which has no pseudo-header."""
    if packet.protocol == "icmp" or packet.pseudo is None:
        return None
    return pseudo_header_sum(packet.pseudo, number, length)
