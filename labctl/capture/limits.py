"""How much of what passes is kept: a guest can send, or say, without end.

What is beyond a limit is counted where it can be, and makes its hop incomplete, so that nothing is
concluded from what was not seen.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_BYTES = 256 << 20
"""Of all streams of a capture. They lie in the lab's directory, which is memory as a rule."""
MOST_FRAMES = 24_000
"""Of all hops of a capture: to judge and follow so many takes some seconds."""
FRAMES_PER_SECOND = 200
"""Where time is short: of all hops, for each second that there is for all of it."""
LEAST_BYTES, LEAST_FRAMES = 4 << 20, 500
"""Of a hop, however many there are."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one hop of a capture may fill."""

    bytes: int = MOST_BYTES
    """Of its stream; an observer that writes more is ended."""
    frames: int = MOST_FRAMES
    """The first ones are kept, the others counted."""

    @classmethod
    def of(cls, hops: int, seconds: float | None = None) -> Limits:
        """Return the share of each of so many hops, where there are `seconds` for everything."""
        share, frames = max(1, hops), MOST_FRAMES
        if seconds is not None:
            frames = min(frames, int(seconds * FRAMES_PER_SECOND))
        return cls(max(LEAST_BYTES, MOST_BYTES // share), max(LEAST_FRAMES, frames // share))
