"""The kernel forwards, and hides senders behind the router's own address."""

from __future__ import annotations

from labctl.kinds.base import Effect, KernelPart, Remedy, RunningRouter
from labctl.kinds.forwarders.namespace import Namespace


class Nat(Namespace):
    """The namespace's kernel forwards, with masquerade by nftables."""

    name = "nat"
    summary = "the kernel forwards and translates source addresses (nftables masquerade)"
    effect = Effect.KEEPS
    in_guests = False
    mechanism = (
        "nf_nat_ipv4_manip_pkt() has inet_proto_csum_replace4() carry the new address into the "
        "field, which for CHECKSUM_PARTIAL is the pseudo-header's sum, and leaves ip_summed"
    )
    requires = (KernelPart("nftables", "masq", "nf_tables nft_masq nft_chain_nat"),)
    remedies = (Remedy(Namespace.name, "addresses are no longer translated"),)

    def start(self, router: RunningRouter) -> None:
        """Make the rules, then let the kernel forward."""
        router.start_program("labctl.routers.masquerade")
        super().start(router)
