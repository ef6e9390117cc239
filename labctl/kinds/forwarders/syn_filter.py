"""A negative control: a program that lets no TCP connection begin."""

from __future__ import annotations

from labctl.kinds.base import Effect
from labctl.kinds.forwarders.raw import TO_KERNEL, Raw


class SynFilter(Raw):
    """`labctl.routers.rewriting` forwards, with `--how refuse-syn`."""

    name = "syn-filter"
    summary = "a program that lets no TCP connection begin"
    effect = Effect.KEEPS
    mechanism = "nothing is summed; what has SYN and not ACK is not forwarded"
    remedies = (TO_KERNEL,)
    program = "labctl.routers.rewriting"
    program_options = ("--how", "refuse-syn")
