"""What was found in a file: totals, flows, offenders, and what they mean."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from labctl.inspect.batch import Interface, Ints
from labctl.inspect.flows import Flow, read_key
from labctl.inspect.kinds import REASONS, STATES, Kind
from labctl.inspect.meaning import Host, explain
from labctl.inspect.tally import Offender, Tally
from labctl.packet import link_types
from labctl.packet.checksum import Checksum


def by_state(counts: Ints) -> dict[str, int]:
    """Add up counts by kind to counts by state."""
    return {state.value: int(counts[list(kinds)].sum()) for state, kinds in STATES.items()}


def reasons(counts: Ints) -> dict[str, int]:
    """Name the parts of `partial` and `unknown` that occur."""
    return {words: int(counts[kind]) for kind, words in REASONS.items() if counts[kind]}


@dataclass(frozen=True)
class Report:
    """One file, inspected."""

    name: str
    format: str
    note: str
    """Why not all of the file could be read; empty where all was."""
    first_ns: int | None
    """The first frame's time, in nanoseconds since the epoch."""
    last_ns: int | None
    frames: int
    counts: Ints
    """Frames by `Kind`, of the outermost packet."""
    inner: Ints
    """Frames inside VXLAN by `Kind`; a row for each `Kind` of the packet that carried them."""
    interfaces: list[tuple[Interface, Ints]]
    flows: list[tuple[Flow, Ints]]
    """Those with most offences first."""
    others: Ints
    """Packets of flows beyond the most that are counted one by one."""
    bad_headers: int
    """IPv4 headers whose own checksum is wrong."""
    offenders: dict[Checksum, list[Offender]]
    hosts: list[Host]
    meaning: list[str]
    """Sentences for a reader."""

    @classmethod
    def of(
        cls, name: str, described: str, note: str, interfaces: list[Interface], tally: Tally
    ) -> Report:
        """Make the report of what was counted."""
        counts = tally.flows.counts
        offences = counts[:, [Kind.BAD, Kind.PARTIAL, Kind.PARTIAL_DATA]].sum(axis=1)
        order = np.lexsort((np.arange(len(counts)), -counts.sum(axis=1), -offences))
        keys = tally.flows.keys
        flows = [(read_key(keys[place]), counts[place]) for place in order.tolist()]
        hosts = Host.of(flows)
        seen = [(interfaces[at], found) for at, found in sorted(tally.interfaces.items())]
        open_ = [Kind.PARTIAL, Kind.PARTIAL_DATA]
        unmarked = {at: found for at, found in tally.interfaces.items() if found[open_].any()}
        ours = any(one.mtu for one, _ in seen)  # labctl alone writes it
        # Of others' files only an interface that marks some frames is known to mark any.
        marks = ours or (bool(unmarked) and tally.marking.issuperset(unmarked))
        names = [interfaces[at].name or f"interface {at}" for at in sorted(unmarked)]
        return cls(
            name,
            described,
            note,
            tally.first_ns,
            tally.last_ns,
            tally.frames,
            tally.kinds,
            tally.pairs,
            seen,
            flows,
            tally.flows.others,
            tally.bad_headers,
            tally.offenders,
            hosts,
            explain(tally.kinds, tally.pairs, hosts, flows, names if marks else None),
        )

    @property
    def links(self) -> list[str]:
        """The link types that occur, named."""
        return list(dict.fromkeys(link_types.name(one.link) for one, _ in self.interfaces))

    @property
    def offences(self) -> dict[Checksum, int]:
        """How many packets, inner ones too, accuse somebody of each state.

        Those that GRO or GSO made, surely or most likely, and those marked `needs_csum`, do not.
        """
        unclear = sum(int(host.counts[Kind.PARTIAL_DATA]) for host in self.hosts if host.merges)
        counts = self.counts + self.inner.sum(axis=0)
        return {
            Checksum.BAD: int(counts[Kind.BAD]),
            Checksum.PARTIAL: int(counts[Kind.PARTIAL] + counts[Kind.PARTIAL_DATA]) - unclear,
        }

    def to_json(self, most_flows: int | None = None) -> dict[str, Any]:
        """Return everything as plain values for `json`, of the flows the first `most_flows`."""
        inside = self.inner.sum(axis=0)
        return {
            "file": self.name,
            "format": self.format,
            "links": self.links,
            "complete": not self.note,
            "note": self.note,
            "first_ns": self.first_ns,
            "last_ns": self.last_ns,
            "frames": self.frames,
            "states": by_state(self.counts),
            "reasons": reasons(self.counts),
            "offences": {state.value: count for state, count in self.offences.items()},
            "ipv4_headers_bad": self.bad_headers,
            "inside_vxlan": {
                "frames": int(inside.sum()),
                "states": by_state(inside),
                "by_outer_state": {
                    state.value: by_state(self.inner[list(kinds)].sum(axis=0))
                    for state, kinds in STATES.items()
                    if self.inner[list(kinds)].any()
                },
            },
            "interfaces": [
                {
                    "name": interface.name,
                    "link": link_types.name(interface.link),
                    "mtu": interface.mtu,
                    "states": by_state(counts),
                }
                for interface, counts in self.interfaces
            ],
            "flows": [
                {**asdict(flow), "states": by_state(counts), "reasons": reasons(counts)}
                for flow, counts in self.flows[:most_flows]
            ],
            "flows_in_all": len(self.flows),
            "packets_of_other_flows": int(self.others.sum()),
            "offenders": {
                state.value: [
                    {key: value for key, value in asdict(one).items() if key != "digits"}
                    for one in found
                ]
                for state, found in self.offenders.items()
            },
            "meaning": self.meaning,
        }
