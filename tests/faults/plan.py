"""What is done to whom, and when: each round follows from the campaign's seed and its number.

Most rounds are kills. In the others something runs short while a verb is under way.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

HAND = (
    *("up",) * 7,
    *("down",) * 4,
    *("experiment",) * 4,
    *("trace",) * 3,
    "diagnose",
    "image",
)
"""The verbs of twenty rounds. Those that leave their lab up stand together and share one."""
OTHERS: dict[str, tuple[str, ...]] = {
    "up": ("agent", "init", "unshare", "qemu", "router", "other"),
    "down": ("agent", "init", "unshare", "qemu", "router", "other"),
    "experiment": ("agent", "init", "unshare", "qemu", "router", "observer", "other"),
    "trace": ("agent", "init", "qemu", "router", "observer", "other"),
    "diagnose": ("agent", "init", "qemu", "router", "observer", "other"),
    "image": ("other",),
}
"""Whose processes a verb has beside labctl's own; see `victims`."""
SIGNALS = ("KILL", "TERM", "INT", "HUP", "STOP")
"""To labctl. STOP is followed by CONT."""
SIGNALS_TO_OTHERS = ("KILL", "KILL", "TERM", "STOP")
LONGEST_STOP = 3.0
SHORTAGES = ("FILES", "MEMORY", "PROCESSES", "FULL", "READONLY")
"""What a verb may lack from a moment on: file descriptors, address space, processes, room on the
disk of the runtime folder, of records and of the cache, or the right to write there."""
SHARE_OF_SHORTAGES = 0.15


@dataclass(frozen=True)
class Round:
    """One kill or shortage."""

    number: int
    verb: str
    victim: str
    """labctl, or one of `OTHERS`."""
    signal: str
    """Or one of `SHORTAGES`."""
    moment: float
    """When: the share of the time that the verb takes if nothing disturbs it."""
    pause: float
    """Seconds between STOP and CONT."""

    @property
    def is_kill(self) -> bool:
        """Whether a signal is sent."""
        return self.signal not in SHORTAGES

    def __str__(self) -> str:
        return f"{self.number}: {self.verb} {self.signal} to {self.victim} at {self.moment:.2f}"


def plan(seed: int, number: int) -> Round:
    """Return a round of a campaign."""
    chance = random.Random(f"{seed}/{number}")
    verb = HAND[number % len(HAND)]
    short = chance.random() < SHARE_OF_SHORTAGES
    ours = short or chance.random() < 0.5
    victim = "labctl" if ours else chance.choice(OTHERS[verb])
    names = SHORTAGES if short else SIGNALS if ours else SIGNALS_TO_OTHERS
    name = chance.choice(names)
    # A little beyond the end, because the usual time is no bound.
    moment = chance.uniform(0.0, 1.02)
    return Round(number, verb, victim, name, moment, chance.uniform(0.05, LONGEST_STOP))
