"""A negative control: a program that finishes checksums and damages payloads then."""

from __future__ import annotations

from labctl.kinds.base import Effect
from labctl.kinds.forwarders.raw import TO_KERNEL, Raw


class FaultySum(Raw):
    """`labctl.routers.rewriting` forwards, with `--how damage-summed`."""

    name = "faulty-sum"
    summary = "a program that finishes checksums and damages payloads then"
    effect = Effect.COMPLETES
    mechanism = "tcp_v4_rcv() drops what does not add up, and counts TcpInCsumErrors"
    remedies = (TO_KERNEL,)
    program = "labctl.routers.rewriting"
    program_options = ("--how", "damage-summed")
