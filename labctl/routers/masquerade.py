"""Source address translation in a router's namespace: the program behind the kind `nat`.

    python -m labctl.routers.masquerade --netns NAME IFACE IFACE...

It makes a table of nftables with a rule `masquerade` for whatever leaves the router, for IPv4 and
IPv6, and is its owner: the kernel takes the table away when this process ends (NFT_TABLE_F_OWNER,
nft_rcv_nl_event()). The namespace's kernel forwards.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.expressions import masq
from pyroute2.nftables.main import NFTables

from labctl.routers import holding

TABLE, CHAIN = "labctl", "postrouting"
_OWNER = 2
"""NFT_TABLE_F_OWNER (linux/netfilter/nf_tables.h); since Linux 5.12."""
_SRCNAT, _ACCEPT = 100, 1
"""NF_IP_PRI_NAT_SRC (linux/netfilter_ipv4.h), NF_ACCEPT."""
_held: list[NFTables] = []


def masquerade(_interfaces: Sequence[str], _asked: argparse.Namespace) -> holding.Held:
    """Make the tables; raises `OSError`."""
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            tables = NFTables(nfgen_family=int(family))
            _held.append(tables)  # it is its owner while it is open
            tables.table("add", name=TABLE, flags=_OWNER)
            tables.chain(
                "add", table=TABLE, name=CHAIN, hook="postrouting", type="nat", policy=_ACCEPT,
                priority=_SRCNAT,
            )  # fmt: skip
            tables.rule("add", table=TABLE, chain=CHAIN, expressions=(masq(),))
    except NetlinkError as wrong:
        raise OSError(wrong.code, f"nftables: {wrong}") from wrong
    return holding.Held()


if __name__ == "__main__":
    sys.exit(holding.main(masquerade, argparse.ArgumentParser(prog="masquerade")))
