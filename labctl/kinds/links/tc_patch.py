"""Two ports that tc(8) joins without a bridge: a TAP and a veth, as vrnetlab has them."""

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
    Requirement,
)


@dataclass(frozen=True)
class PatchOptions:
    """What the segment is told."""

    csum: bool = field(
        default=False, metadata={"help": "Complete checksums by `action csum` before it redirects."}
    )


class TcPatch(LinkKind[PatchOptions]):
    """A segment whose two ports are redirected to each other, straight onto a machine's TAP."""

    name = "tc-patch"
    summary = "two ports, such as a TAP and a veth, that tc's mirred joins without a bridge"
    effect = Effect.KEEPS
    mechanism = (
        "tcf_mirred_act() hands the skb itself to the TAP's dev_queue_xmit(), and tun_put_user() "
        "tells of CHECKSUM_PARTIAL in the virtio header; tcf_csum_act() would complete it before"
    )
    options = PatchOptions
    requires = (KernelPart("tc action", "mirred", "act_mirred"),)

    def needs(self, options: Mapping[str, Option]) -> Sequence[Requirement]:
        """Return what the kernel must have: the action csum only where it is asked for."""
        csum = (KernelPart("tc action", "csum", "act_csum"),) if options.get("csum") else ()
        return (*self.requires, *csum)

    def effect_on(self, passing: Passing) -> Effect:
        """Return what becomes of a packet: with `csum` it is completed, but for a super-frame."""
        completes = bool(passing.options.get("csum")) and not passing.gso
        return Effect.COMPLETES if completes else Effect.KEEPS

    def plan(self, base: str, options: PatchOptions) -> LinkPlan:
        """Return a bridge that holds the two, and is passed by."""
        bridge = NewLink(base, "bridge")
        return LinkPlan((bridge,), bridge=base, patch="csum" if options.csum else "mirred")
