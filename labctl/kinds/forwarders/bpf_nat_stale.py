"""A negative control: the translating program, which does not update the transport's checksum."""

from __future__ import annotations

from labctl.kinds.base import Effect, Remedy
from labctl.kinds.forwarders.bpf_nat import BpfNat


class BpfNatStale(BpfNat):
    """`labctl.routers.translate` with `--stale`."""

    name = "bpf-nat-stale"
    summary = "a BPF program translates an address and leaves the checksum"
    effect = Effect.KEEPS
    mechanism = (
        "bpf_skb_store_bytes() changes an address that the pseudo-header has (RFC 9293, 3.1), and "
        "nothing carries it into the field; ip_summed stays CHECKSUM_PARTIAL"
    )
    remedies = (Remedy("bpf-nat", "none: one more helper is called"), *BpfNat.remedies)
    words = ("--stale",)
