"""One number for one packet, at whatever hops it is seen: `epb_packetid` of a pcapng file.

A packet is known again by what one translation of addresses, a clamped option and another IP
identification leave of it (`labctl.packet.keys`). What was damaged, and what was cut into segments
or merged, is another packet. So this is less than following one (`labctl.tracing.follow`), but it
is done frame by frame, while they come.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Hashable

from labctl.capture.session import Observation
from labctl.packet.keys import Traits, traits

MOST = 1 << 18
"""Keys that are remembered, four of a packet; one that comes again after them is a new packet."""
_ALIKE = 64
"""Of packets alike so many are remembered: of somebody who repeats one without end the last."""


class _Packet:
    """A packet with a number, and where it was seen so far."""

    __slots__ = ("before", "hops", "number")

    def __init__(self, number: int, before: int) -> None:
        self.number = number
        self.before = before
        """How many alike there were before it."""
        self.hops: set[str] = set()


class PacketIds:
    """Gives each observation the number of its packet.

    The number is a digest of what the packet was where it was first seen, and of how many alike
    came before: the same frames give the same numbers, in whatever file.
    """

    def __init__(self, most: int = MOST) -> None:
        """Remember at most so many keys."""
        self._most = most
        self._alike: OrderedDict[int, deque[_Packet]] = OrderedDict()
        """Packets by the hash of each of their keys, the latest last."""

    def __call__(self, seen: Observation) -> int:
        """Return the packet's number, 64 bits; of several that it may be the latest's."""
        keys = [hash(key) for key in _keys(seen)]  # no payload is kept
        packet = self._known(seen.hop, keys)
        if packet is None:
            last = self._alike[keys[0]][-1] if keys[0] in self._alike else None
            before = last.before + 1 if last else 0
            packet = _Packet(_digest(seen.record.frame, before), before)
        elif keys[0] in self._alike:
            packet.hops.add(seen.hop)
            return packet.number
        packet.hops.add(seen.hop)
        for key in keys:  # also of a packet that looks otherwise now: the next hop sees it so
            self._alike.setdefault(key, deque(maxlen=_ALIKE)).append(packet)
            self._alike.move_to_end(key)
        while len(self._alike) > self._most:
            self._alike.popitem(last=False)
        return packet.number

    def _known(self, hop: str, keys: list[int]) -> _Packet | None:
        """Return the packet that has one of the keys and was not seen at this hop."""
        for key in keys:
            for packet in reversed(self._alike.get(key, ())):
                if hop not in packet.hops:
                    return packet
        return None


def _keys(seen: Observation) -> list[Hashable]:
    """Return what the packet may be known by, the strictest first; the frame where it is no IP."""
    judgement, frame = seen.judgement, seen.record.frame
    parts = traits(frame, judgement.packet, judgement.gso, judgement.gso_size)
    return [("frame", frame)] if parts is None else _of_ip(parts)


def _of_ip(one: Traits) -> list[Hashable]:
    src, sport, dst, dport = one.ends
    content = (one.number, one.header, one.payload)
    return [
        ("same", one.ends, one.ip_id, one.number, one.body),
        ("destination translated", src, sport, one.ip_id, content),
        ("source translated", dst, dport, one.ip_id, content),
        ("identified anew", one.ends, content),
    ]


def _digest(frame: bytes, before: int) -> int:
    told = hashlib.blake2b(frame, digest_size=8, salt=before.to_bytes(8, "little"))
    return int.from_bytes(told.digest(), "little")
