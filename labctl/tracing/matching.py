"""Find the same packets again at a later hop, although the hops between changed them.

Pure functions over what was seen. Two packets are one if a key of theirs is equal (see
`labctl.packet.keys`); where several share a key, order and time decide. A TCP segment may also come
back in pieces or as part of a larger one: then its bytes are followed.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from labctl.capture.session import Observation
from labctl.packet.frame import LONGEST_FRAME, TCP, UDP
from labctl.packet.keys import (
    KEYS,
    Key,
    Traits,
    after,
    inner_traits,
    traits,
)

MOST_PIECES = 1024
"""Of a segment that is split or merged: more than the longest super-frame has at the usual MTU."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A observation on the clock all hops share, taken apart for comparison."""

    observation: Observation
    time_ns: int
    """Nanoseconds since the epoch, the hop's clock offset taken off."""
    traits: Traits
    inner: Traits | None = None
    """What it carries, where it is an encapsulated packet."""


@dataclass(frozen=True, slots=True)
class Link:
    """An earlier observation and a later one are the same packet, or share bytes."""

    earlier: int
    later: int
    """Positions in the sequences given to `match`."""
    damaged: bool = False
    """Only the headers agree: the payload was changed on the way."""
    part: bool = False
    """One holds only some of the other's bytes: split, merged or fragmented."""


def prepare(observations: Iterable[Observation], offset_ns: int = 0) -> list[Seen]:
    """Take observations of IP packets apart, in the order of their times."""
    found = []
    for one in observations:
        judgement = one.judgement
        frame = one.record.frame
        parts = traits(frame, judgement.packet, judgement.gso, judgement.gso_size)
        if parts is not None:
            inner = inner_traits(frame, judgement.packet)
            found.append(Seen(one, one.time_ns - offset_ns, parts, inner))
    return sorted(found, key=lambda seen: seen.time_ns)


def match(earlier: Sequence[Seen], later: Sequence[Seen], slack_ns: int = 0) -> list[Link]:
    """Find which of `later` are packets of `earlier`.

    Both are in the order of time; `slack_ns` is by how much the two hops' clocks may disagree.
    """
    work = _Match(earlier, later, slack_ns)
    for key, damaged in KEYS:
        if damaged:  # bytes first: a split segment is no damaged one
            work.follow_bytes()
        work.by_key(key, damaged)
    work.unwrap()
    return sorted(work.links, key=lambda link: (link.earlier, link.later))


class _Match:
    """The state of one matching: what is still without its counterpart."""

    def __init__(self, earlier: Sequence[Seen], later: Sequence[Seen], slack_ns: int) -> None:
        self.earlier, self.later, self.slack = earlier, later, slack_ns
        self.open_a = dict.fromkeys(range(len(earlier)))
        self.open_b = dict.fromkeys(range(len(later)))
        self.links: list[Link] = []
        self._followed = False

    def link(self, a: int, b: int, *, damaged: bool = False, part: bool = False) -> None:
        self.links.append(Link(a, b, damaged, part))
        self.open_a.pop(a, None)
        self.open_b.pop(b, None)

    def by_key(self, key: Key, damaged: bool = False) -> None:
        """Pair what shares a key; where several do, by order and time."""
        if not self.open_a or not self.open_b:
            return
        self._pair(
            _grouped((i, self.earlier[i].traits) for i in self.open_a),
            _grouped((i, self.later[i].traits) for i in self.open_b),
            key,
            damaged,
        )

    def _pair(
        self,
        these: list[tuple[int, Traits]],
        those: list[tuple[int, Traits]],
        key: Key,
        damaged: bool = False,
    ) -> None:
        groups: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side, several in enumerate((these, those)):
            for index, one in several:
                value = key(one)
                if value is not None:
                    groups[value][side].append(index)
        for left, right in groups.values():
            for a, b in self._align(left, right):
                self.link(a, b, damaged=damaged)

    def _align(self, left: list[int], right: list[int]) -> list[tuple[int, int]]:
        """Pair equal packets: as many as there are on both sides, else each with its latest cause.

        A retransmission that equals what it repeats must not be taken for the one that was lost.
        """
        if len(left) == len(right) == 1:
            return [(left[0], right[0])]  # nothing else it could be: no clock is needed
        if len(left) == len(right):
            return list(zip(left, right, strict=True))
        pairs = []
        waiting = list(left)
        for b in reversed(right):
            limit = self.later[b].time_ns + self.slack
            while waiting and self.earlier[waiting[-1]].time_ns > limit:
                waiting.pop()
            if not waiting:
                break
            pairs.append((waiting.pop(), b))
        return pairs

    def follow_bytes(self) -> None:
        """Find segments that were split or merged, datagrams of a super-frame, and fragments."""
        if self._followed or not self.open_a or not self.open_b:
            return
        self._followed = True
        self._segments(same_ends=True)
        self._segments(same_ends=False)
        self._datagrams()
        self._fragments()

    def _segments(self, *, same_ends: bool) -> None:
        """Link TCP segments that hold the same bytes of the stream."""
        groups: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side, (several, indices) in enumerate(
            ((self.earlier, self.open_a), (self.later, self.open_b))
        ):
            for index in indices:
                one = several[index].traits
                if one.number == TCP and one.start is not None and one.payload:
                    groups[one.ends if same_ends else None][side].append(index)
        for left, right in groups.values():
            if left and right:
                self._overlaps(left, right)

    def _overlaps(self, left: list[int], right: list[int]) -> None:
        base = self.earlier[left[0]].traits.start or 0
        starts = sorted((after(base, self.earlier[a].traits.start), a) for a in left)
        found: list[tuple[int, int]] = []
        for b in right:
            later = self.later[b]
            begin = after(base, later.traits.start)
            end = begin + len(later.traits.payload)
            low = bisect.bisect_left(starts, (begin - LONGEST_FRAME, -1))
            high = bisect.bisect_left(starts, (end, -1))
            # Whoever repeats the same bytes ten thousand times gets no ten thousand comparisons.
            near = starts[max(low, high - MOST_PIECES) : high]
            around = [(start, a) for start, a in near if self._causes(a, later)]
            # The latest cause of every byte: an earlier one was repeated because it was lost.
            around.sort(key=lambda pair: (self.earlier[pair[1]].time_ns, pair[1]), reverse=True)
            missing = [(begin, end)]
            for start, a in around:
                one = self.earlier[a].traits
                span = (start, start + len(one.payload))
                rest = _without(missing, span)
                if rest == missing or not _agree(one, span, later.traits, (begin, end)):
                    continue
                missing = rest
                found.append((a, b))
        for a, b in found:
            self.link(a, b, part=True)

    def _causes(self, a: int, later: Seen) -> bool:
        return self.earlier[a].time_ns <= later.time_ns + self.slack

    def _datagrams(self) -> None:
        """Link UDP super-frames (GSO, GRO) with the datagrams they stand for."""
        for one_side, other_side, forward in (
            (self.earlier, self.later, True),
            (self.later, self.earlier, False),
        ):
            indices, others = (self.open_a, self.open_b) if forward else (self.open_b, self.open_a)
            chunks: dict[Hashable, list[int]] = defaultdict(list)
            for index in list(indices):
                one = one_side[index].traits
                if one.number != UDP or not one.gso_size or len(one.payload) <= one.gso_size:
                    continue
                for at in range(0, len(one.payload), one.gso_size):
                    chunks[one.payload[at : at + one.gso_size]].append(index)
            for index in list(others):
                one = other_side[index].traits
                candidates = chunks.get(one.payload) if one.number == UDP else None
                if candidates:
                    owner = candidates.pop(0)
                    pair = (owner, index) if forward else (index, owner)
                    self.link(*pair, part=True)

    def _fragments(self) -> None:
        """Link a packet with its IPv4 fragments, or fragments with what was put together."""
        groups: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side, (several, indices) in enumerate(
            ((self.earlier, self.open_a), (self.later, self.open_b))
        ):
            for index in indices:
                one = several[index].traits
                if one.ip_id:
                    key = (one.number, one.ends[0], one.ends[2], one.ip_id)
                    groups[key][side].append(index)
        for left, right in groups.values():
            whole = [not self.earlier[a].traits.fragment for a in left]
            cut = [self.later[b].traits.fragment for b in right]
            if (left and right) and (
                (len(left) == 1 and all(whole) and all(cut))
                or (len(right) == 1 and not any(whole) and not any(cut))
            ):
                for a in left:
                    for b in right:
                        self.link(a, b, part=True)

    def unwrap(self) -> None:
        """Pair what went into an encapsulation with its carrier, and what came out with its."""
        for key, _ in KEYS[:4]:
            if not self.open_a or not self.open_b:
                return
            self._pair(
                _grouped((i, self.earlier[i].traits) for i in self.open_a),
                _grouped((i, self.later[i].inner) for i in self.open_b),
                key,
            )
            self._pair(
                _grouped((i, self.earlier[i].inner) for i in self.open_a),
                _grouped((i, self.later[i].traits) for i in self.open_b),
                key,
            )


def _grouped(several: Iterable[tuple[int, Traits | None]]) -> list[tuple[int, Traits]]:
    return [(index, one) for index, one in several if one is not None]


def _without(spans: list[tuple[int, int]], taken: tuple[int, int]) -> list[tuple[int, int]]:
    """Return what is left of `spans` once `taken` is cut out."""
    rest = []
    for begin, end in spans:
        if taken[1] <= begin or end <= taken[0]:
            rest.append((begin, end))
            continue
        if begin < taken[0]:
            rest.append((begin, taken[0]))
        if taken[1] < end:
            rest.append((taken[1], end))
    return rest


def _agree(one: Traits, here: tuple[int, int], other: Traits, there: tuple[int, int]) -> bool:
    """Tell whether two segments hold the same bytes where they overlap."""
    begin, end = max(here[0], there[0]), min(here[1], there[1])
    mine = one.payload[begin - here[0] : end - here[0]]
    return mine == other.payload[begin - there[0] : end - there[0]]
