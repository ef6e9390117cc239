"""How a packet's state at a hop is shown: a sign with a shape and a letter of its own, and words.

Shapes and letters tell as much as colours do, so that a page in grey says the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from labctl.packet.checksum import Checksum, Metadata
from labctl.tracing.packet_trace import HopEvent, Step


@dataclass(frozen=True)
class Sign:
    """One sign of the legend."""

    key: str
    """Names the drawing (`g-KEY` in the page) and its colour."""
    name: str
    meaning: str


SIGNS = {
    sign.key: sign
    for sign in (
        Sign(
            "flag",
            "partial, flag there",
            "The sum is unfinished (only the pseudo-header is summed), and the flag needs_csum "
            "travels beside the packet: somebody will finish it. All is well.",
        ),
        Sign(
            "lost",
            "partial, flag lost",
            "The sum is unfinished and the metadata is gone: nobody will finish it. The receiver "
            "takes it for damage and drops it.",
        ),
        Sign("valid", "valid", "The sum is finished and right."),
        Sign("bad", "bad", "The field is neither the finished nor the unfinished sum."),
        Sign("absent", "absent", "UDP without a checksum: the sender made none."),
        Sign("merged", "merged", "Several packets in one frame; its field accuses nobody."),
        Sign("unseen", "not seen", "The packet did not pass here, by a complete capture."),
        Sign(
            "blind",
            "cannot be told",
            "The capture is not complete here, or shows no sum, or not what was known of it.",
        ),
        Sign("off", "not on its way", "This packet had no reason to pass here."),
    )
}


def sign(step: Step | None) -> str:
    """Return the key of the sign for a step; None is a hop off the packet's way."""
    if step is None:
        return "off"
    if step.state is None:
        return "unseen" if step.happened is HopEvent.NOT_SEEN else "blind"
    if step.state is Checksum.PARTIAL:
        if step.metadata is Metadata.NEEDS_CSUM:
            return "flag"
        if step.metadata is Metadata.UNTOLD and not step.gso:
            return "blind"
        return "merged" if step.gso else "lost"
    return "blind" if step.state is Checksum.UNKNOWN else str(step.state)


def words(step: Step | None) -> str:
    """Say what was seen, in the words that the rest of labctl uses."""
    if step is None:
        return SIGNS["off"].name
    return step.knowledge or str(step.happened)
