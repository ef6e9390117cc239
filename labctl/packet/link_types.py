"""Link types: where a frame's IP packet starts (https://www.tcpdump.org/linktypes.html)."""

from __future__ import annotations

from labctl.packet.frame import ETH_HLEN, ETH_P_IP, ETH_P_IPV6

ETHERNET, NULL, RAW_BSD, RAW, LOOP, COOKED, IPV4, IPV6, COOKED_V2 = (
    1, 0, 12, 101, 108, 113, 228, 229, 276,
)  # fmt: skip

NAMES = {
    ETHERNET: "Ethernet",
    NULL: "BSD loopback",
    RAW_BSD: "raw IP",
    RAW: "raw IP",
    14: "raw IP",
    LOOP: "OpenBSD loopback",
    COOKED: "Linux cooked",
    IPV4: "raw IPv4",
    IPV6: "raw IPv6",
    COOKED_V2: "Linux cooked v2",
}
"""The link types known here; 14 is raw IP where captured on OpenBSD."""

HEADER = {
    ETHERNET: ETH_HLEN, NULL: 4, LOOP: 4, COOKED: 16, COOKED_V2: 20,
    RAW_BSD: 0, RAW: 0, 14: 0, IPV4: 0, IPV6: 0,
}  # fmt: skip
"""Bytes before the network header (before any VLAN tag)."""

PROTOCOL_AT = {ETHERNET: 12, COOKED: 14, COOKED_V2: 0}
"""Where the ethertype stands, for link types that have one."""

FAMILIES = {2: ETH_P_IP, 10: ETH_P_IPV6, 24: ETH_P_IPV6, 28: ETH_P_IPV6, 30: ETH_P_IPV6}
"""BSD loopback: AF_INET, and AF_INET6 of Linux, NetBSD and OpenBSD, FreeBSD, macOS."""

VERSIONS = {4: ETH_P_IP, 6: ETH_P_IPV6}
"""Raw IP: the ethertype by the IP version."""


def name(link: int) -> str:
    """Return what a reader calls the link type."""
    return NAMES.get(link, f"link type {link}")


def as_ethernet(link: int, frame: bytes, original_length: int) -> tuple[bytes, int] | None:
    """Return the frame, and its length on the wire, as if an Ethernet had carried it.

    None for a link type not known here. The addresses are zero where the link has none.
    """
    if link == ETHERNET:
        return frame, original_length
    if link not in HEADER:
        return None
    size = HEADER[link]
    wire = max(original_length, len(frame)) - size + ETH_HLEN
    if len(frame) < max(size, 1):
        return b"", max(original_length, 1)
    if link in PROTOCOL_AT:
        at = PROTOCOL_AT[link]
        ethertype = int.from_bytes(frame[at : at + 2], "big")
    elif link in (NULL, LOOP):  # in the byte order of the machine that captured
        family = min(int.from_bytes(frame[:4], "big"), int.from_bytes(frame[:4], "little"))
        ethertype = FAMILIES.get(family, 0)
    else:
        ethertype = VERSIONS.get(frame[0] >> 4, 0)
    return bytes(12) + ethertype.to_bytes(2, "big") + frame[size:], wire
