"""Two veth pairs that are bonded at both ends, as two cables between a host and a switch."""

from __future__ import annotations

from labctl.kinds.base import Effect, KernelPart, LinkKind, LinkPlan, NewLink, NoOptions

ACTIVE_BACKUP, LOOK_MS = 1, 100
"""BOND_MODE_ACTIVEBACKUP (linux/if_bonding.h), and how often carriers are looked at."""


class Bond(LinkKind[NoOptions]):
    """A bond at each end, in the mode active-backup, and two veth pairs between them."""

    name = "bond"
    summary = "two veth pairs bonded at both ends (active-backup)"
    effect = Effect.KEEPS
    mechanism = (
        "bond_dev_queue_xmit() gives the skb another dev, and bond_handle_frame() likewise; a bond "
        "has the offloads that all its ports have (bond_compute_features())"
    )
    options = NoOptions
    joins = True
    requires = (KernelPart("link", "bond", "bonding"),)

    def plan(self, base: str, options: NoOptions) -> LinkPlan:  # noqa: ARG002
        """Return the bonds and the pairs; which pair carries is not said, so bonds are the hops."""
        one, other = f"{base}-a", f"{base}-b"
        settings = {"bond_mode": ACTIVE_BACKUP, "bond_miimon": LOOK_MS}
        bonds = tuple(NewLink(name, "bond", settings=settings) for name in (one, other))
        pairs = tuple(
            NewLink(f"{one}{at}", "veth", peer=f"{other}{at}", master=one, peer_master=other)
            for at in range(2)
        )
        return LinkPlan((*bonds, *pairs), ends=(one, other), points=(one, other))
