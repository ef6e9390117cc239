"""A negative control: a program that drops every tenth packet."""

from __future__ import annotations

from labctl.kinds.base import Effect
from labctl.kinds.forwarders.raw import TO_KERNEL, Raw


class Lossy(Raw):
    """`labctl.routers.rewriting` forwards, with `--how drop-tenth`."""

    name = "lossy"
    summary = "a program that drops every tenth packet"
    effect = Effect.KEEPS
    mechanism = "nothing is summed; of ten packets in a row the last is not forwarded"
    remedies = (TO_KERNEL,)
    program = "labctl.routers.rewriting"
    program_options = ("--how", "drop-tenth")
