"""Two TAPs and socat(1) between them: a layer-2 tunnel's two ends in one process."""

from __future__ import annotations

from collections.abc import Mapping

from labctl.kinds.base import (
    Effect,
    LinkKind,
    LinkPlan,
    LinkProgram,
    NewLink,
    NoOptions,
    Option,
    Tool,
)


class SocatTap(LinkKind[NoOptions]):
    """Two TAPs without virtio headers that socat joins."""

    name = "socat-tap"
    summary = "two TAPs that socat joins"
    effect = Effect.COMPLETES
    mechanism = (
        "without TUN_F_CSUM a TAP has no NETIF_F_HW_CSUM (set_offload(), drivers/net/tun.c), so "
        "validate_xmit_skb() has skb_checksum_help() finish the sum before the program reads it"
    )
    options = NoOptions
    joins = True
    requires = (Tool("socat", "socat"),)

    def takes_unfinished(self, options: Mapping[str, Option]) -> bool:  # noqa: ARG002
        """Return False: both ends are TAPs without virtio header."""
        return False

    def plan(self, base: str, options: NoOptions) -> LinkPlan:  # noqa: ARG002
        """Return the TAPs, which are the ends, and the program."""
        one, other = f"{base}-a", f"{base}-b"
        links = tuple(NewLink(name, "tuntap", settings={"mode": "tap"}) for name in (one, other))
        taps = tuple(f"TUN,tun-name={name},tun-type=tap,iff-no-pi" for name in (one, other))
        program = LinkProgram(
            f"{base}-socat", "socat", ("-d", "-d", "-b", "65550", *taps),
            ready="starting data transfer loop",
        )  # fmt: skip
        return LinkPlan(links, ends=(one, other), points=(one, other), programs=(program,))
