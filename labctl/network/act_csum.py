"""The action csum of tc(8) for pyroute2, which has it not: linux/tc_act/tc_csum.h."""

from __future__ import annotations

import sys
from typing import Any

from pyroute2.netlink import NLA_F_NESTED, nla
from pyroute2.netlink.rtnl.tcmsg.common_act import plugins

IPV4_HEADER, ICMP, TCP, UDP = 1, 2, 8, 16
"""TCA_CSUM_UPDATE_FLAG_*."""
_PIPE = 3
"""TC_ACT_PIPE: on to the next action (linux/pkt_cls.h)."""


class options(nla):  # type: ignore[misc]  # noqa: N801 - pyroute2 looks for this name
    """The attributes of the action."""

    nla_flags = NLA_F_NESTED
    nla_map = (
        ("TCA_CSUM_UNSPEC", "none"),
        ("TCA_CSUM_PARMS", "parms"),
        ("TCA_CSUM_TM", "none"),
    )

    class parms(nla):  # type: ignore[misc]  # noqa: N801
        """struct tc_csum."""

        fields = (
            ("index", "I"),
            ("capab", "I"),
            ("action", "i"),
            ("refcnt", "i"),
            ("bindcnt", "i"),
            ("update_flags", "I"),
        )


def get_parameters(wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of an action that sums what `update_flags` says."""
    parms = {"action": _PIPE, "update_flags": wanted["update_flags"]}
    return {"attrs": [["TCA_CSUM_PARMS", parms]]}


def register() -> None:
    """Let pyroute2 know the action."""
    plugins.setdefault("csum", sys.modules[__name__])
