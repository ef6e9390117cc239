"""Makes links worse by tc-netem(8): frames that leave by them are late, lost, doubled, damaged."""

from __future__ import annotations

import errno
from typing import Any

import pyroute2
from pyroute2.netlink.rtnl.tcmsg import common, plugins

from labctl.errors import HostError, UsageError
from labctl.sandbox.remote import remote
from labctl.topology.impairment import Impairment

LIMIT = 100_000
"""Frames that wait at most: netem's usual 1,000 are lost at once where much is delayed."""
_ALL = 2**32 - 1
_ROOT = 0xFFFFFFFF
"""TC_H_ROOT (linux/pkt_sched.h)."""


def _register() -> None:
    """Let the rate be netem's alone: pyroute2 would write it as TCA_RATE of the request too."""
    plugins["netem"].fix_request = lambda request: request.pop("rate", None)


@remote
def impair(link: str, wanted: Impairment) -> Impairment:
    """Impair what leaves by a link, in place of what did before; return what is in effect.

    Raises `UsageError` for a link that has a queueing discipline of somebody else's, `HostError`
    where the kernel has no netem, and where another impairment is in effect than was wanted.
    """
    _register()
    with pyroute2.IPRoute() as ip:
        index = _index(ip, link)
        if _root(ip, index) not in ("netem", "noqueue", "pfifo_fast", "fq_codel", "fq", "mq", ""):
            raise UsageError(f"{link} has a queueing discipline that labctl did not make")
        _clear(ip, index)
        if wanted:
            try:
                ip.tc("add", "netem", index=index, handle="1:", **_parameters(wanted))
            except pyroute2.NetlinkError as reason:
                if reason.code not in (errno.ENOENT, errno.EOPNOTSUPP):
                    raise
                raise HostError(
                    "this kernel cannot impair links: it has no netem",
                    "as root, run: modprobe sch_netem",
                ) from None
        found = _read(ip, index)
    if found != wanted:
        raise HostError(f"{link}: the kernel does {found or 'nothing'} where {wanted} was wanted")
    return found


@remote
def impairments(names: list[str]) -> dict[str, Impairment]:
    """Return what is in effect on those of these links that are impaired."""
    with pyroute2.IPRoute() as ip:
        there = {name: ip.link_lookup(ifname=name) for name in names}
        found = {name: _read(ip, index[0]) for name, index in there.items() if index}
    return {name: one for name, one in found.items() if one}


def _index(ip: pyroute2.IPRoute, link: str) -> int:
    found = ip.link_lookup(ifname=link)
    if not found:
        raise HostError(f"the link {link} is gone", "run: labctl status")
    return int(found[0])


def _root(ip: pyroute2.IPRoute, index: int) -> str:
    for one in ip.get_qdiscs(index=index):
        if one["parent"] == _ROOT:
            return str(one.get_attr("TCA_KIND"))
    return ""


def _clear(ip: pyroute2.IPRoute, index: int) -> None:
    if _root(ip, index) == "netem":
        ip.tc("del", index=index, parent=_ROOT)


def _parameters(wanted: Impairment) -> dict[str, Any]:
    found: dict[str, Any] = {
        "delay": wanted.delay,
        "jitter": wanted.jitter,
        "loss": wanted.loss,
        "duplicate": wanted.duplicate,
        "prob_reorder": wanted.reorder,
        "prob_corrupt": wanted.corrupt,
        "limit": LIMIT,
    }
    return found | ({"rate": f"{wanted.rate}bit"} if wanted.rate else {})


def _read(ip: pyroute2.IPRoute, index: int) -> Impairment:
    """Return what is in effect on a link, as the kernel tells it."""
    for one in ip.get_qdiscs(index=index):
        if one["parent"] != _ROOT or one.get_attr("TCA_KIND") != "netem":
            continue
        options = one.get_attr("TCA_OPTIONS")

        def of(name: str, key: str, options: Any = options) -> int:
            part = options.get_attr(name)
            return int(part[key]) if part else 0

        return Impairment(
            delay=_microseconds(options["delay"]),
            jitter=_microseconds(options["jitter"]),
            loss=_percent(options["loss"]),
            duplicate=_percent(options["duplicate"]),
            corrupt=_percent(of("TCA_NETEM_CORRUPT", "prob_corrupt")),
            reorder=_percent(of("TCA_NETEM_REORDER", "prob_reorder")),
            rate=of("TCA_NETEM_RATE", "rate") * 8,
        )
    return Impairment()


def _microseconds(ticks: int) -> int:
    in_one: float = common.tick_in_usec
    return round(ticks / in_one)


def _percent(share: int) -> float:
    """Return a share of 2^32 in percent, as many digits as can be written."""
    return round(share / _ALL * 100, 6)
