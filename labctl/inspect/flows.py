"""Counting kinds by flow: within a batch by sorting, over the file in one bounded table."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labctl.inspect.batch import Ints, Kinds, Words
from labctl.inspect.kinds import KINDS
from labctl.packet.frame import PROTOCOLS

MOST_FLOWS = 1 << 16
"""Flows counted one by one; packets of later ones are counted together."""

# Odd and not known beforehand: nobody can make a file whose flows all collide.
_FACTORS = [np.uint64(int.from_bytes(os.urandom(8), "little") | 1) for _ in range(6)]
_SHIFT = np.uint64(29)


@dataclass(frozen=True)
class Group:
    """Some flows' counts."""

    keys: list[bytes]
    """As labctl.inspect.scalar.flow_key gives them."""
    counts: Ints
    """One row a flow, one column a kind."""


def group(columns: Sequence[Words], kinds: Kinds) -> Group:
    """Count kinds by flow; a flow's key is one 64-bit word of each of the columns."""
    if not len(kinds):
        return Group([], np.zeros((0, KINDS), np.int64))
    digest = np.zeros(len(kinds), np.uint64)
    for column, factor in zip(columns, _FACTORS, strict=False):
        digest = (digest ^ column) * factor
        digest ^= digest >> _SHIFT
    first, inverse = _alike(digest)
    rows = np.stack([column[first] for column in columns], axis=1)
    if not all(
        np.array_equal(rows[:, place][inverse], column) for place, column in enumerate(columns)
    ):  # two flows with one digest: once in a very long while
        rows, inverse = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
        inverse, first = inverse.ravel(), np.arange(len(rows))
    counts = np.bincount(inverse * KINDS + kinds, minlength=len(rows) * KINDS)
    order = np.argsort(first)  # in the order of the file, whatever the digests are
    return Group(_as_bytes(rows[order]), counts.reshape(-1, KINDS)[order])


def _alike(values: Words) -> tuple[Ints, Ints]:
    """Return where each distinct value is met first, and for every value which of those it is."""
    order = np.argsort(values)
    ordered = values[order]
    fresh = np.empty(len(values), np.bool_)
    fresh[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
    which = np.empty(len(values), np.int64)
    which[order] = np.cumsum(fresh) - 1
    first: Ints = np.minimum.reduceat(order, np.flatnonzero(fresh))
    return first, which


def _as_bytes(rows: NDArray[np.uint64]) -> list[bytes]:
    data = rows.astype("<u8").tobytes()
    size = rows.shape[1] * 8
    return [data[at : at + size] for at in range(0, len(data), size)]


def group_keys(keys: Iterable[bytes | None], kinds: Iterable[int]) -> Group:
    """Count kinds by flow, one by one; frames without a flow are left out."""
    places: dict[bytes, int] = {}
    cells: list[int] = []
    for key, kind in zip(keys, kinds, strict=True):
        if key is not None:
            cells.append(places.setdefault(key, len(places)) * KINDS + kind)
    counts = np.bincount(np.array(cells, np.int64), minlength=len(places) * KINDS)
    return Group(list(places), counts.reshape(-1, KINDS))


class Table:
    """All flows of a file and their counts, at most `MOST_FLOWS` of them."""

    def __init__(self, most: int = MOST_FLOWS) -> None:
        self._most = most
        self._places: dict[bytes, int] = {}
        self._counts = np.zeros((256, KINDS), np.int64)
        self.others = np.zeros(KINDS, np.int64)
        """Packets of flows that no longer fitted."""

    def add(self, some: Group) -> None:
        """Add counts; a group names each flow once."""
        places = self._places
        ids = np.empty(len(some.keys), np.int64)
        for row, key in enumerate(some.keys):
            known = places.get(key, -1)
            if known < 0 and len(places) < self._most:
                known = places[key] = len(places)
            ids[row] = known
        while len(self._counts) < len(places):
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        kept = ids >= 0
        if kept.all():
            self._counts[ids] += some.counts
            return
        self._counts[ids[kept]] += some.counts[kept]
        self.others += some.counts[~kept].sum(axis=0)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def counts(self) -> Ints:
        """One row a flow, in the order of `keys`."""
        return self._counts[: len(self._places)]

    @property
    def keys(self) -> list[bytes]:
        """The flows in the order in which they were met."""
        return list(self._places)


@dataclass(frozen=True)
class Flow:
    """A flow's key, read."""

    protocol: str
    src: str
    dst: str
    sport: int | None
    dport: int | None
    vni: int | None
    """The VXLAN network it was found in."""

    def __str__(self) -> str:
        ends = [
            address if port is None else f"{f'[{address}]' if ':' in address else address}:{port}"
            for address, port in ((self.src, self.sport), (self.dst, self.dport))
        ]
        inside = "" if self.vni is None else f" in VXLAN {self.vni}"
        return f"{self.protocol} {ends[0]} > {ends[1]}{inside}"


def read_key(key: bytes) -> Flow:
    """Read what `flow_key` wrote."""
    size = 4 if len(key) < 40 else 16
    src, dst = ipaddress.ip_address(key[:size]), ipaddress.ip_address(key[size : 2 * size])
    tail = key[2 * size :]
    number, ported = tail[4], tail[5]
    sport, dport = int.from_bytes(tail[:2], "big"), int.from_bytes(tail[2:4], "big")
    vni = int.from_bytes(tail[8:], "little") if len(tail) > 8 else None
    return Flow(
        PROTOCOLS.get(number, f"protocol {number}"),
        str(src),
        str(dst),
        sport if ported else None,
        dport if ported else None,
        vni,
    )
