"""Validate the checksums of a file's first frames with scapy: FILE COUNT."""

from __future__ import annotations

import sys

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.sctp import SCTP
from scapy.utils import PcapReader

FIELDS = {
    TCP: "chksum", UDP: "chksum", ICMP: "chksum", SCTP: "chksum", ICMPv6EchoRequest: "cksum",
    ICMPv6EchoReply: "cksum",
}  # fmt: skip


def main(path: str, count: int) -> None:
    right = wrong = 0
    with PcapReader(path) as reader:
        for frame in reader if count else ():
            for layer, field in FIELDS.items():
                if frame.haslayer(layer):
                    packet = frame[IP] if frame.haslayer(IP) else frame[IPv6]
                    stands = getattr(packet[layer], field)
                    delattr(packet[layer], field)  # so that building it computes it
                    made = packet.__class__(bytes(packet))
                    if getattr(made[layer], field) == stands:
                        right += 1
                    else:
                        wrong += 1
                    break
            count -= 1
            if not count:
                break
    print(right, wrong)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
