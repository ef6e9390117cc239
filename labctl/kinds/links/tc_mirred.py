"""A wire of tc(8): what comes in by one port goes out by the other, by the action mirred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from labctl.kinds.base import (
    Effect,
    KernelPart,
    LinkKind,
    LinkPlan,
    NewLink,
    Option,
    Passing,
    Redirect,
    Requirement,
)


@dataclass(frozen=True)
class MirredOptions:
    """What the wire is told."""

    csum: bool = field(
        default=False, metadata={"help": "Complete checksums by `action csum` before it redirects."}
    )


class TcMirred(LinkKind[MirredOptions]):
    """Two ports joined in both directions by `action mirred egress redirect`."""

    name = "tc-mirred"
    summary = "two ports that tc's mirred redirects to each other"
    effect = Effect.KEEPS
    mechanism = (
        "tcf_mirred_act() hands the skb itself to the other device; tcf_csum_act() computes the "
        "sum over the whole packet and sets CHECKSUM_NONE, but leaves GSO packets as they are"
    )
    options = MirredOptions
    joins = True
    requires = (KernelPart("tc action", "mirred", "act_mirred"),)

    def needs(self, options: Mapping[str, Option]) -> Sequence[Requirement]:
        """Return what the kernel must have: the action csum only where it is asked for."""
        csum = (KernelPart("tc action", "csum", "act_csum"),) if options.get("csum") else ()
        return (*self.requires, *csum)

    def effect_on(self, passing: Passing) -> Effect:
        """Return what becomes of a packet: with `csum` its checksum is completed.

        Of a super-frame it is not (tcf_csum_ipv4_tcp() returns where skb_is_gso()).
        """
        completes = bool(passing.options.get("csum")) and not passing.gso
        return Effect.COMPLETES if completes else Effect.KEEPS

    def plan(self, base: str, options: MirredOptions) -> LinkPlan:
        """Return two veth pairs, whose inner ends are redirected to each other."""
        one, before, after, other = (f"{base}-{end}" for end in ("a", "p", "q", "b"))
        links = (NewLink(one, "veth", peer=before), NewLink(after, "veth", peer=other))
        redirects = (
            Redirect(before, after, completes=options.csum),
            Redirect(after, before, completes=options.csum),
        )
        points = (one, before, after, other)
        return LinkPlan(links, ends=(one, other), points=points, redirects=redirects)
