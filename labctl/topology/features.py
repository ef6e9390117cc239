"""The names of offloads: which exist, which mean the same, and what a name covers.

Guest and TAP features are written as ethtool(8) knows them: the short words of `ethtool -K` (`tx`),
the long ones of `ethtool -k` (`tx-checksumming`), or the kernel's own (`tx-checksum-ip-generic`).
The canonical form is what `ethtool -k` prints: the long word of a group, else the kernel's name.
"""

from __future__ import annotations

from collections.abc import Mapping

_GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    # canonical: (short, names in the kernel's netdev_features_strings, net/ethtool/common.c)
    "rx-checksumming": ("rx", ("rx-checksum",)),
    "tx-checksumming": (
        "tx",
        (
            "tx-checksum-ipv4",
            "tx-checksum-ip-generic",
            "tx-checksum-ipv6",
            "tx-checksum-fcoe-crc",
            "tx-checksum-sctp",
        ),
    ),
    "scatter-gather": ("sg", ("tx-scatter-gather", "tx-scatter-gather-fraglist")),
    "tcp-segmentation-offload": (
        "tso",
        (
            "tx-tcp-segmentation",
            "tx-tcp-ecn-segmentation",
            "tx-tcp-mangleid-segmentation",
            "tx-tcp6-segmentation",
            "tx-tcp-accecn-segmentation",
        ),
    ),
    "udp-fragmentation-offload": ("ufo", ("tx-udp-fragmentation",)),
    "generic-segmentation-offload": ("gso", ("tx-generic-segmentation",)),
    "generic-receive-offload": ("gro", ("rx-gro",)),
    "large-receive-offload": ("lro", ("rx-lro",)),
    "rx-vlan-offload": ("rxvlan", ("rx-vlan-hw-parse",)),
    "tx-vlan-offload": ("txvlan", ("tx-vlan-hw-insert",)),
    "ntuple-filters": ("ntuple", ("rx-ntuple-filter",)),
    "receive-hashing": ("rxhash", ("rx-hashing",)),
}

_SINGLE = (
    # The kernel's other features that can change; those that never do (highdma …) are left out.
    "rx-vlan-filter",
    "tx-vlan-stag-hw-insert",
    "rx-vlan-stag-hw-parse",
    "rx-vlan-stag-filter",
    "rx-gro-hw",
    "rx-gro-list",
    "rx-udp-gro-forwarding",
    "tx-gso-robust",
    "tx-gso-partial",
    "tx-gso-list",
    "tx-fcoe-segmentation",
    "tx-gre-segmentation",
    "tx-gre-csum-segmentation",
    "tx-ipxip4-segmentation",
    "tx-ipxip6-segmentation",
    "tx-udp_tnl-segmentation",
    "tx-udp_tnl-csum-segmentation",
    "tx-tunnel-remcsum-segmentation",
    "tx-sctp-segmentation",
    "tx-esp-segmentation",
    "tx-udp-segmentation",
    "tx-nocache-copy",
    "loopback",
    "rx-fcs",
    "rx-all",
    "l2-fwd-offload",
    "hw-tc-offload",
    "esp-hw-offload",
    "esp-tx-csum-hw-offload",
    "rx-udp_tunnel-port-offload",
    "tls-hw-record",
    "tls-hw-tx-offload",
    "tls-hw-rx-offload",
    "macsec-hw-offload",
    "hsr-tag-ins-offload",
    "hsr-tag-rm-offload",
    "hsr-fwd-offload",
    "hsr-dup-offload",
)


def _canonical_names() -> dict[str, str]:
    names = {name: name for name in _SINGLE}
    for long, (short, kernel) in _GROUPS.items():
        names[long] = names[short] = long
        # ethtool prints a group of one feature only by the group's word.
        names.update({name: long if len(kernel) == 1 else name for name in kernel})
    return names


FEATURES: Mapping[str, str] = _canonical_names()
"""Every name a guest or TAP feature may be written with, and its canonical form."""

DEVICE_FEATURES: tuple[str, ...] = (
    "csum",
    "gso",
    "tso4",
    "tso6",
    "ecn",
    "ufo",
    "mrg_rxbuf",
    "guest_csum",
    "guest_tso4",
    "guest_tso6",
    "guest_ecn",
    "guest_ufo",
)
"""virtio-net features a device may be told not to offer.

Without prefix they are attributes of libvirt's `<driver><host/>` (what the host accepts of the
guest), with `guest_` of `<driver><guest/>` (what the guest may be sent).
"""


def kernel_names(feature: str) -> tuple[str, ...]:
    """Return the kernel's names of what a canonical feature covers (one for a single feature).

    A device usually has only some of a group's; ethtool(8) then changes those it has.
    """
    return _GROUPS[feature][1] if feature in _GROUPS else (feature,)


def groups() -> dict[str, tuple[str, list[str]]]:
    """Return the groups by their long word: the short one, and the kernel's names."""
    return {long: (short, list(kernel)) for long, (short, kernel) in _GROUPS.items()}


def in_order(features: Mapping[str, bool]) -> dict[str, bool]:
    """Return features in the order to set them: groups first, so that a single one can differ."""
    return dict(sorted(features.items(), key=lambda item: (item[0] not in _GROUPS, item[0])))
