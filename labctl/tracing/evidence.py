"""What a trace makes of what its observers and its guests' kernels left: saved, dated, doubted."""

from __future__ import annotations

import re
import shlex

from labctl.capture.session import Evidence
from labctl.errors import GuestError
from labctl.guests import scripts
from labctl.kinds.observers.drops import Drop
from labctl.topology.model import Node
from labctl.tracing.clocks import Clock
from labctl.tracing.drop_events import GuestArrival, GuestDrop

EARLY_NS = 1_000_000_000
"""By how much a capture must have ended too early to be told: more than its clock may be wrong."""


_CLOCKS = """
sub now { my $s = "\\0" x 16; syscall(228, $_[0], $s); my ($a, $b) = unpack "q2", $s;
  return $a * 1000000000 + $b }
my ($best, $ahead);
for (1 .. 9) {
  my ($before, $real, $after) = (now(1), now(0), now(1));
  next if defined $best && $after - $before >= $best;
  ($best, $ahead) = ($after - $before, $real - int(($before + $after) / 2));
}
print $ahead;
"""
"""Prints how far a guest's CLOCK_REALTIME is ahead of its CLOCK_MONOTONIC in nanoseconds, from the
reading that was disturbed least (clock_gettime, x86-64)."""


def clocks_command(node: Node) -> str:
    """Return shell text by which a guest tells its clocks, for `nanoseconds`.

    Raises `GuestError` for a guest that can run no program which does.
    """
    return shlex.join(scripts.words(node, _CLOCKS, "clocks"))


def cut(evidence: Evidence) -> list[str]:
    """Say which hops' streams are cut, those together that are for the same reason."""
    reasons: dict[str, list[str]] = {}
    for hop in evidence.hops:
        if hop.cut:
            reasons.setdefault(hop.note, []).append(hop.hop)
    return [f"the capture is cut at {', '.join(where)}: {why}" for why, where in reasons.items()]


def limited(evidence: Evidence) -> list[str]:
    """Say at which hops more came than is kept; those whose streams were ended for it are cut."""
    return [f"{hop.hop}: {hop.limited}" for hop in evidence.hops if hop.left_out]


def missed(evidence: Evidence) -> list[str]:
    """Say which observers missed frames that passed them."""
    return [
        f"{hop.hop}: the observer missed {hop.trailer.drops} frames "
        f"and met {hop.trailer.errors} errors"
        for hop in evidence.hops
        if hop.trailer is not None and (hop.trailer.drops or hop.trailer.errors)
    ]


def untold(evidence: Evidence) -> list[str]:
    """Say at which hops the observer saw frames alone, and nothing of what was known of them."""
    return [
        f"{hop.hop} is observed by tcpdump, which does not tell the metadata"
        for hop in evidence.hops
        if hop.header is not None and hop.header.observer == "tcpdump"
    ]


def early(evidence: Evidence, known: dict[str, Clock], asked_ns: int) -> list[str]:
    """Say which hops' streams are whole, but were ended by something else than this trace."""
    found = []
    for hop in evidence.hops:
        clock = known[hop.hop]
        if hop.trailer is None:
            continue
        ended_ns = hop.trailer.clock_ns - clock.offset_ns + clock.slack_ns
        if ended_ns + EARLY_NS < asked_ns:
            found.append(hop.hop)
    return [f"the capture ended too early at {', '.join(found)}"] if found else []


def on_clock(owner: str, drop: Drop, ahead_ns: int) -> GuestDrop:
    """Put a drop on the clock that its guest's packets were seen by."""

    def when(seconds: float) -> int:
        return int(seconds * 1e9) + ahead_ns

    arrivals = drop.arrivals
    return GuestDrop(
        owner,
        when(drop.time_s),
        drop.protocol,
        drop.reason or "",
        drop.location,
        None
        if arrivals is None
        else tuple(GuestArrival(when(one.time_s), one.device, one.length) for one in arrivals),
    )


def nanoseconds(owner: str, text: str) -> int:
    """Read what `CLOCKS` printed; raises `GuestError` for anything else."""
    if not re.fullmatch(r"-?\d{1,19}", text.strip()):
        raise GuestError(
            f"{owner} did not tell its clocks", "its perl or python3 is not what it should be"
        )
    return int(text)
