"""The forwarders that come with labctl.

They are declared as entry points like anybody's (pyproject.toml). The same list stands here, so
that a topology that names only these is read without looking through all installed packages.
"""

from __future__ import annotations

from collections.abc import Mapping

SHIPPED: Mapping[str, str] = {
    "namespace": "labctl.kinds.forwarders.namespace:Namespace",
    "raw": "labctl.kinds.forwarders.raw:Raw",
    "raw-vnet": "labctl.kinds.forwarders.raw_vnet:RawVnet",
    "raw-zeroed": "labctl.kinds.forwarders.raw_zeroed:RawZeroed",
    "raw-synthesised": "labctl.kinds.forwarders.raw_synthesised:RawSynthesised",
    "raw-sum": "labctl.kinds.forwarders.raw_sum:RawSum",
    "raw-sum-unready": "labctl.kinds.forwarders.raw_sum_unready:RawSumUnready",
    "faulty-payload": "labctl.kinds.forwarders.faulty_payload:FaultyPayload",
    "faulty-sum": "labctl.kinds.forwarders.faulty_sum:FaultySum",
    "syn-filter": "labctl.kinds.forwarders.syn_filter:SynFilter",
    "frr": "labctl.kinds.forwarders.frr:Frr",
    "bpf-nat-stale": "labctl.kinds.forwarders.bpf_nat_stale:BpfNatStale",
    "raw-incremental": "labctl.kinds.forwarders.raw_incremental:RawIncremental",
    "lossy": "labctl.kinds.forwarders.lossy:Lossy",
    "nat": "labctl.kinds.forwarders.nat:Nat",
    "vrf": "labctl.kinds.forwarders.vrf:Vrf",
    "bpf-nat": "labctl.kinds.forwarders.bpf_nat:BpfNat",
    "tun": "labctl.kinds.forwarders.tun:Tun",
    "tun-vnet": "labctl.kinds.forwarders.tun_vnet:TunVnet",
    "tun-vnet-empty": "labctl.kinds.forwarders.tun_vnet_empty:TunVnetEmpty",
    "tc-bpf": "labctl.kinds.forwarders.tc_bpf:TcBpf",
    "tc-bpf-clone": "labctl.kinds.forwarders.tc_bpf_clone:TcBpfClone",
    "xdp-generic": "labctl.kinds.forwarders.xdp_generic:XdpGeneric",
    "xdp-native": "labctl.kinds.forwarders.xdp_native:XdpNative",
    "af-xdp": "labctl.kinds.forwarders.af_xdp:AfXdp",
}
"""By name, where the class is; in the order in which they are shown."""
DEFAULT = "namespace"
"""The kind of a router that says nothing of it."""
