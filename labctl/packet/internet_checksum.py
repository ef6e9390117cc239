"""The Internet checksum of IPv4, TCP, UDP and ICMP (RFC 1071): sums as residues modulo 0xffff."""

from __future__ import annotations


def ones_sum(data: bytes | memoryview) -> int:
    """Return the ones' complement sum of big-endian 16-bit words, as a residue 0 to 0xfffe.

    2^16 is 1 modulo 0xffff, so the whole buffer read as one number has the same residue as the
    sum of its words (RFC 1071 section 2): one C-speed operation instead of a loop.
    """
    if len(data) % 2:
        data = bytes(data) + b"\0"
    return int.from_bytes(data, "big") % 0xFFFF


def pseudo_header_sum(addresses: bytes, protocol: int, length: int) -> int:
    """Return the pseudo-header's sum as a residue (RFC 9293 section 3.1, RFC 8200 section 8.1).

    `addresses` are source and destination as on the wire, `length` the bytes of transport header
    and payload.
    """
    return (ones_sum(addresses) + protocol + (length >> 16) + (length & 0xFFFF)) % 0xFFFF
