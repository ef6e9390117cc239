"""One end of a veth pair: the interface of a node that is a network namespace."""

from __future__ import annotations

from labctl.kinds.base import Effect
from labctl.kinds.nics.base import NicModel


class Veth(NicModel):
    """The other end gets the sender's own skb (veth_xmit, drivers/net/veth.c).

    Nothing on the way looks at its checksum. The driver has tx-checksum-ip-generic on
    (VETH_FEATURES), so what is sent is unfinished and stays so.
    """

    name = "veth"
    summary = "a veth pair of a network namespace: the metadata is in the skb"
    effect = Effect.KEEPS
    driver = "veth"
    home = "namespace"
    mechanism = "veth_xmit() hands the skb itself to the other end"
    transport = "the skb itself (veth_xmit)"
    carrier = "CHECKSUM_PARTIAL in the skb"
    in_every_image = True
    instant_carrier = True
