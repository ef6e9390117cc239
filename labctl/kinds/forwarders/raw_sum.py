"""The user-space router, whose program computes the checksum of every packet anew."""

from __future__ import annotations

from labctl.kinds.base import Effect
from labctl.kinds.forwarders.raw import TO_KERNEL, Raw


class RawSum(Raw):
    """`labctl.routers.rewriting` forwards, with `--how recompute`."""

    name = "raw-sum"
    summary = "a program computes the checksum of every packet anew"
    effect = Effect.COMPLETES
    mechanism = (
        "no metadata is looked at: the sum of RFC 9293, 3.1 and RFC 768 is written over the field"
    )
    remedies = (TO_KERNEL,)
    program = "labctl.routers.rewriting"
    program_options = ("--how", "recompute")
