"""A negative control: a program that damages payloads and leaves the metadata as it is."""

from __future__ import annotations

from labctl.kinds.base import Effect
from labctl.kinds.forwarders.raw import TO_KERNEL, Raw


class FaultyPayload(Raw):
    """`labctl.routers.rewriting` forwards, with `--how damage`."""

    name = "faulty-payload"
    summary = "a program that damages payloads and leaves the metadata as it is"
    effect = Effect.KEEPS
    mechanism = (
        "__skb_checksum_validate_needed() is false of CHECKSUM_PARTIAL: what never met a wire "
        "is not summed"
    )
    remedies = (TO_KERNEL,)
    program = "labctl.routers.rewriting"
    program_options = ("--how", "damage")
