"""A negative control: a user-space translation that takes every checksum for a finished one."""

from __future__ import annotations

from labctl.kinds.base import Effect, RunningRouter
from labctl.kinds.forwarders.bpf_nat import TranslationOptions
from labctl.kinds.forwarders.raw import TO_KERNEL, Raw


class RawIncremental(Raw):
    """`labctl.routers.rewriting` forwards, with `--how translate`."""

    name = "raw-incremental"
    summary = "a program translates an address by an incremental update of the checksum"
    effect = Effect.KEEPS
    mechanism = (
        "RFC 1624, eqn. 3 holds of a finished sum; an unfinished field is not inverted, so the "
        "difference is carried into it with the wrong sign"
    )
    options = TranslationOptions
    remedies = (TO_KERNEL,)
    program = "labctl.routers.rewriting"

    def start(self, router: RunningRouter) -> None:
        """Start the program."""
        told = self.told(router)
        pair = ("--inside", told.inside, "--outside", told.outside)
        router.start_program(self.program, "--how", "translate", *pair)
