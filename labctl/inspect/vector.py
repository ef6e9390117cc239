"""The judge on a whole batch: the common shapes with array arithmetic, the others one by one.

Every rule here is one of labctl.packet.checksum; a frame whose shape is not covered is left to the
judge itself, so that the answers are the same (a property test compares the two).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labctl.inspect.batch import Batch, Ints, Kinds, Words
from labctl.inspect.crc import sctp_crcs
from labctl.inspect.fields import Fields, Sums, folded
from labctl.inspect.flows import Group, group, group_keys
from labctl.inspect.kinds import KINDS, NOT_YET, Kind
from labctl.inspect.scalar import DEPTH, examine
from labctl.packet import link_types
from labctl.packet.checksum import Checksum
from labctl.packet.frame import (
    AUTHENTICATION,
    CHECKSUM_OFFSETS,
    ETH_HLEN,
    ETH_P_IP,
    ETH_P_IPV6,
    EXTENSION_HEADERS,
    FOLLOWED_TYPES,
    ICMP,
    ICMPV6,
    IPV4_FRAGMENT,
    OUTSIDE_MTU,
    SCTP,
    TCP,
    TCP_FIN,
    TCP_RST,
    TCP_SYN,
    UDP,
    VLAN_HLEN,
    VLAN_TYPES,
)
from labctl.packet.tunnels import CARRIERS, TUNNEL_PORTS, VNI_VALID, VXLAN_HEADER, VXLAN_PORTS

_OFFSETS = np.zeros(256, np.int64)
_OFFSETS[list(CHECKSUM_OFFSETS)] = list(CHECKSUM_OFFSETS.values())


def _table(*ones: int) -> NDArray[np.bool_]:
    table = np.zeros(256, np.bool_)
    table[list(ones)] = True
    return table


# Protocols that are left to the judge: in the wrong family, or with a transport behind them.
_RARE = {
    4: _table(ICMPV6, AUTHENTICATION, *CARRIERS),
    6: _table(ICMP, *EXTENSION_HEADERS, *CARRIERS),
}
_MODULUS, _HALF = np.uint64(0xFFFF), np.uint64(32)
Truths = NDArray[np.bool_]


@dataclass
class Judged:
    """What a batch turned out to be."""

    kinds: Kinds
    """One `Kind` a frame, in the batch's order; of the outermost packet."""
    interfaces: dict[int, Ints]
    """Counts by kind, for each interface."""
    groups: list[Group] = field(default_factory=list)
    pairs: Ints = field(default_factory=lambda: np.zeros((KINDS, KINDS), np.int64))
    """How often a packet of one kind carried a frame of another."""
    inner: list[tuple[Ints, Kinds]] = field(default_factory=list)
    """Frames inside VXLAN: the place of the frame they came in, and their kind."""
    bad_headers: int = 0
    """IPv4 headers whose own sum is wrong."""


@dataclass
class _Frames:
    """Frames of one link type, on the way through the layers."""

    link: int
    place: Ints
    """Each frame's place in the batch."""
    start: Ints
    stop: Ints
    """Where its captured bytes end."""
    original: Ints
    vni: Ints | None
    kinds: Kinds


@dataclass
class _Packets:
    """IP packets of one version whose transport is to be judged."""

    version: int
    row: Ints
    """Which of the frames it is."""
    transport: Ints
    """Where its transport header starts."""
    length: Ints
    """Bytes of transport header and payload."""
    stop: Ints
    protocol: Ints
    ends: list[Words]
    """Source and destination, as they lie, in 64-bit words."""
    fragment: Truths
    merged: Truths


class _Carried(NamedTuple):
    """Frames inside packets: the rows they came in, and where they lie."""

    row: Ints
    start: Ints
    stop: Ints
    original: Ints
    vni: Ints


def judge_batch(batch: Batch, mtu: int) -> Judged:
    """Judge every frame of a batch, those inside VXLAN too.

    `mtu`, in bytes, is for interfaces of which the file does not tell it.
    """
    return _Pass(batch, mtu).run()


class _Pass:
    """One batch being judged."""

    def __init__(self, batch: Batch, mtu: int) -> None:
        self._batch = batch
        self._mtu = mtu
        self._fields = Fields(batch.window)
        self._sums = Sums(batch.window, batch.end)
        self._result = Judged(np.full(len(batch), NOT_YET, np.uint8), {})

    def run(self) -> Judged:
        batch, result = self._batch, self._result
        seen = np.unique(batch.interface)
        for number in seen.tolist():
            place = np.flatnonzero(batch.interface == number) if len(seen) > 1 else None
            place = np.arange(len(batch)) if place is None else place
            interface = batch.interfaces[number]
            start = batch.start[place]
            kinds = self._judge(
                _Frames(
                    interface.link,
                    place,
                    start,
                    start + batch.captured[place],
                    batch.original[place],
                    None,
                    np.full(len(place), NOT_YET, np.uint8),
                ),
                interface.mtu or self._mtu,
                1,
            )
            result.kinds[place] = kinds
            result.interfaces[number] = np.bincount(kinds, minlength=KINDS)
        return result

    def _judge(self, frames: _Frames, mtu: int, depth: int) -> Kinds:
        """Judge frames of one link type, count their flows, and go on with what they carry."""
        carried: list[_Carried] = []
        outermost = depth == 1
        if frames.link in link_types.HEADER and not (outermost and self._batch.metadata):
            for packets in self._packets(frames, mtu):
                carried.append(self._transport(frames, packets))
        rest = np.flatnonzero(frames.kinds == NOT_YET)
        if len(rest):
            carried.append(self._one_by_one(frames, rest, mtu, outermost))
        parts = [part for part in carried if len(part.row)]
        if parts and depth < DEPTH:
            row, start, stop, original, vni = (
                np.concatenate(column) for column in zip(*parts, strict=True)
            )
            fresh = np.full(len(row), NOT_YET, np.uint8)
            inner = _Frames(
                link_types.ETHERNET, frames.place[row], start, stop, original, vni, fresh
            )
            kinds = self._judge(inner, mtu, depth + 1)
            self._result.inner.append((inner.place, kinds))
            np.add.at(self._result.pairs, (frames.kinds[row], kinds), 1)
        return frames.kinds

    def _packets(self, frames: _Frames, mtu: int) -> Iterator[_Packets]:
        """Find the IP packets of plain shape; marks those frames that have no such packet."""
        fields, link, start, stop = self._fields, frames.link, frames.start, frames.stop
        size = link_types.HEADER[link]
        network = start + size
        known = stop - start >= max(size, 1)
        merged = np.maximum(stop - start, frames.original) - size + ETH_HLEN > mtu + OUTSIDE_MTU
        if link in link_types.PROTOCOL_AT:
            ethertype = fields.u16(start + link_types.PROTOCOL_AT[link])
        elif link in (link_types.NULL, link_types.LOOP):
            family = np.minimum(fields.u32(start), fields.u32(start, "<"))
            ethertype = _choose(family, link_types.FAMILIES)
        else:
            ethertype = _choose(fields.u8(start) >> 4, link_types.VERSIONS)
        for _ in range(2):  # a third tag is for the judge
            tagged = np.flatnonzero(_is_one_of(ethertype, VLAN_TYPES) & known)
            if not len(tagged):
                break
            known[tagged] = stop[tagged] - network[tagged] >= VLAN_HLEN
            ethertype[tagged] = fields.u16(network[tagged] + 2)
            network[tagged] += VLAN_HLEN
        other = ~_is_one_of(ethertype, {ETH_P_IP, ETH_P_IPV6} | VLAN_TYPES | FOLLOWED_TYPES)
        frames.kinds[other & known] = Kind.NO_CHECKSUM
        for found, read in ((ETH_P_IP, self._four), (ETH_P_IPV6, self._six)):
            row = np.flatnonzero((ethertype == found) & known)
            if len(row):
                yield read(row, network[row], stop[row], merged[row])

    def _four(self, row: Ints, at: Ints, stop: Ints, merged: Truths) -> _Packets:
        fields = self._fields
        first, total, protocol = fields.u8(at), fields.u16(at + 2), fields.u8(at + 9)
        header = (first & 15) * 4
        plain = (stop - at >= 20) & (first >> 4 == 4) & (header >= 20) & (total >= header)
        plain &= ~_RARE[4][protocol]
        if not plain.all():
            row, at, stop, merged = row[plain], at[plain], stop[plain], merged[plain]
            header, total, protocol = header[plain], total[plain], protocol[plain]
        transport = at + header
        wrong = self._sums.of(at, np.minimum(transport, stop)) != 0
        self._result.bad_headers += int(np.count_nonzero(wrong & (transport <= stop)))
        return _Packets(
            4,
            row,
            transport,
            total - header,
            stop,
            protocol,
            [fields.raw64(at + 12)],
            fields.u16(at + 6) & IPV4_FRAGMENT != 0,
            merged,
        )

    def _six(self, row: Ints, at: Ints, stop: Ints, merged: Truths) -> _Packets:
        fields = self._fields
        payload, protocol = fields.u16(at + 4), fields.u8(at + 6)
        plain = (stop - at >= 40) & (fields.u8(at) >> 4 == 6) & ~_RARE[6][protocol]
        plain &= (payload > 0) | ~merged  # without a length: BIG TCP, for the judge
        if not plain.all():
            row, at, stop, merged = row[plain], at[plain], stop[plain], merged[plain]
            payload, protocol = payload[plain], protocol[plain]
        ends = [fields.raw64(at + place) for place in (8, 16, 24, 32)]
        whole = np.zeros(len(row), np.bool_)
        return _Packets(6, row, at + 40, payload, stop, protocol, ends, whole, merged)

    def _transport(self, frames: _Frames, packets: _Packets) -> _Carried:
        """Judge packets of plain shape, count their flows, and return what they carry."""
        fields, at, length, stop = self._fields, packets.transport, packets.length, packets.stop
        protocol, fragment = packets.protocol, packets.fragment
        room = stop - at
        tcp, udp, sctp = protocol == TCP, protocol == UDP, protocol == SCTP
        place = _OFFSETS[protocol]
        value = fields.u16(at + place)
        told = np.where(udp, fields.u16(at + 4), 0)
        covered = np.where(told != 0, told, length)  # a UDP header that announces 0 leaves it to IP
        addresses = sum(map(folded, packets.ends), np.uint64(0)) % _MODULUS
        pseudo = addresses.astype(np.int64) * 256 + protocol + (covered >> 16) + (covered & 0xFFFF)
        pseudo = np.where(protocol == ICMP, 0, pseudo % 0xFFFF)
        summed = self._sums.of(np.minimum(at, stop), np.minimum(at + covered, stop))
        right = (pseudo + summed) % 0xFFFF == 0
        partial = (value == np.where(pseudo == 0, 0xFFFF, pseudo)) & (tcp | udp)
        if sctp.any():
            self._crc(
                np.flatnonzero(sctp & (room >= length) & (length >= 12)), packets, right, partial
            )
        partial &= ~right
        # From the weakest statement to the strongest: what comes later overrules.
        kinds = np.where(right, np.uint8(Kind.VALID), np.uint8(Kind.BAD))
        if partial.any():
            kinds[partial] = self._partial(packets, np.flatnonzero(partial))
        cut = (frames.stop - frames.start < frames.original)[packets.row]
        short = np.where(cut & (room < length), np.uint8(Kind.CUT), np.uint8(Kind.MALFORMED))
        kinds[room < covered] = short[room < covered]
        port = fields.u16(at + 2)
        unsummed = udp & (value == 0)
        kinds[unsummed] = Kind.BAD
        kinds[unsummed & (_is_one_of(port, TUNNEL_PORTS) | (packets.version == 4))] = Kind.ABSENT
        impossible = (told != 0) & ((told < 8) | (told > length))
        kinds[impossible] = short[impossible]
        after = place + 2 + 2 * sctp
        hidden = (room < after) | (length < after)
        kinds[hidden] = short[hidden]
        kinds[place == 0] = Kind.NO_CHECKSUM
        kinds[fragment] = Kind.FRAGMENT
        tunnel = udp & _is_one_of(port, VXLAN_PORTS)
        doubted = tunnel & (kinds == Kind.BAD) & ~unsummed
        if doubted.any():
            counting = self._counting(frames, packets, np.flatnonzero(doubted))
            kinds[counting] = self._partial(packets, counting)
        frames.kinds[packets.row] = kinds
        ported = (tcp & (room >= 14) & (length >= 20)) | (udp & (room >= 4) & (length >= 8))
        ported |= sctp & (room >= 4) & (length >= 12)
        ported &= ~fragment
        last = np.where(ported, fields.raw32(at), np.uint64(0))
        last |= (protocol + ported * 256).astype(np.uint64) << _HALF
        columns = [*packets.ends, last]
        if frames.vni is not None:
            columns.append(frames.vni[packets.row].astype(np.uint64))
        self._result.groups.append(group(columns, kinds))
        carried = np.flatnonzero(tunnel & ported)
        return self._vxlan(packets, carried, covered)

    def _crc(self, which: Ints, packets: _Packets, right: Truths, partial: Truths) -> None:
        """Put in whether the SCTP packets in the rows `which` are right, or left open."""
        at = packets.transport[which]
        stands = self._fields.u32(at + 8, "<")
        right[which] = sctp_crcs(self._batch.window, at, packets.length[which]) == stands
        partial[which] = stands == 0

    def _partial(self, packets: _Packets, which: Ints) -> Kinds:
        fields, at, length = self._fields, packets.transport[which], packets.length[which]
        payload = length - (fields.u8(at + 12) >> 4) * 4
        data = (packets.protocol[which] == TCP) & (length >= 20) & (payload > 0)
        data &= fields.u8(at + 13) & (TCP_FIN | TCP_SYN | TCP_RST) == 0
        kinds = np.where(data, np.uint8(Kind.PARTIAL_DATA), np.uint8(Kind.PARTIAL))
        kinds[packets.merged[which]] = Kind.PARTIAL_MERGED
        return kinds

    def _counting(self, frames: _Frames, packets: _Packets, which: Ints) -> Ints:
        """Return those of the tunnel packets that count on what is inside, as the judge says."""
        found = []
        for one, row in zip(which.tolist(), packets.row[which].tolist(), strict=True):
            frame = self._batch.window[int(frames.start[row]) : int(frames.stop[row])].tobytes()
            # Where its IP header tells its length, the MTU has no part in it.
            seen = examine(frames.link, frame, int(frames.original[row]), len(frame))
            if seen.judgement and seen.judgement.state is Checksum.PARTIAL:
                found.append(one)
        return np.array(found, np.int64)

    def _vxlan(self, packets: _Packets, which: Ints, covered: Ints) -> _Carried:
        """Return the frames inside those packets that are whole enough to hold one."""
        fields = self._fields
        at, stop, size = packets.transport[which], packets.stop[which], covered[which]
        holds = (
            (stop - at >= VXLAN_HEADER) & (size > VXLAN_HEADER) & (size <= packets.length[which])
        )
        holds &= fields.u8(at + 8) & VNI_VALID != 0
        which, at, stop, size = which[holds], at[holds], stop[holds], size[holds]
        return _Carried(
            packets.row[which],
            at + VXLAN_HEADER,
            np.minimum(stop, at + size),
            size - VXLAN_HEADER,
            fields.u32(at + 12) >> 8,
        )

    def _one_by_one(self, frames: _Frames, rest: Ints, mtu: int, outermost: bool) -> _Carried:
        """Let the judge itself look at the frames in the rows `rest`."""
        metadata = self._batch.metadata if outermost else None
        window = self._batch.window
        keys: list[bytes | None] = []
        carried: list[tuple[int, int, int, int, int]] = []
        for row in rest.tolist():
            start, stop = int(frames.start[row]), int(frames.stop[row])
            seen = examine(
                frames.link,
                window[start:stop].tobytes(),
                int(frames.original[row]),
                mtu,
                metadata.get(int(frames.place[row])) if metadata else None,
                None if frames.vni is None else int(frames.vni[row]),
            )
            frames.kinds[row] = seen.kind
            keys.append(seen.key)
            self._result.bad_headers += seen.bad_headers
            if seen.inner:
                begin, inner = start + seen.inner_at, seen.inner
                end = begin + len(inner.frame)
                carried.append((row, begin, end, inner.original_length, inner.vni))
        self._result.groups.append(group_keys(keys, frames.kinds[rest].tolist()))
        return _Carried(*np.array(carried, np.int64).reshape(-1, 5).T)


def _choose(value: Ints, table: Mapping[int, int]) -> Ints:
    """Map each value by the table, others to 0."""
    result = np.zeros(len(value), np.int64)
    for key, found in table.items():
        result[value == key] = found
    return result


def _is_one_of(value: Ints, ones: Iterable[int]) -> Truths:
    result = np.zeros(len(value), np.bool_)
    for one in ones:
        result |= value == one
    return result
