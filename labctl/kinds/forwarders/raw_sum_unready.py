"""The user-space router, whose program sums what the packet socket says is not ready."""

from __future__ import annotations

from labctl.kinds.base import Effect
from labctl.kinds.forwarders.raw import TO_KERNEL, Raw


class RawSumUnready(Raw):
    """`labctl.routers.rewriting` forwards, with `--how recompute-unready`."""

    name = "raw-sum-unready"
    summary = "a program computes the checksum where the socket says it is not ready"
    effect = Effect.COMPLETES
    mechanism = (
        "packet_recvmsg() tells CHECKSUM_PARTIAL as TP_STATUS_CSUMNOTREADY (packet(7)); "
        "nothing else is summed"
    )
    remedies = (TO_KERNEL,)
    program = "labctl.routers.rewriting"
    program_options = ("--how", "recompute-unready")
