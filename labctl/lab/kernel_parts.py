"""Which parts of the kernel are there: found by trying each in a network namespace of its own.

    python -m labctl.lab.kernel_parts SORT:NAME...

A name in /proc/modules proves little: a part may be built in, or be loaded when it is wanted. So
each is tried, in a namespace that goes with this process. It prints one line of JSON, a list of
those that are missing.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from labctl.kinds.base import KernelPart
from labctl.sandbox import process
from labctl.sandbox.deadline import Deadline

SECONDS = 60.0


def missing(parts: Iterable[KernelPart]) -> list[KernelPart]:
    """Return those parts that this kernel has not, or lets this user not use."""
    wanted = list(dict.fromkeys(parts))
    if not wanted:
        return []
    unshare = ["unshare", "--net"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    words = [f"{part.sort}:{part.name}" for part in wanted]
    argv = [*unshare, sys.executable, "-P", "-m", __name__, *words]
    deadline = Deadline(SECONDS, "asking the kernel for its parts")
    said = process.run(argv, deadline=deadline, package="util-linux").stdout
    lacking = json.loads(said.splitlines()[-1])
    return [part for part, word in zip(wanted, words, strict=True) if word in lacking]


def _link(name: str, mark: str) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        index = _veth(ip, mark)
        settings: Mapping[str, Mapping[str, object]] = {
            "vxlan": {"vxlan_id": 1, "vxlan_port": 4789},
            "geneve": {"geneve_id": 1, "geneve_remote": "192.0.2.1"},
            "gretap": {"gre_local": "192.0.2.2", "gre_remote": "192.0.2.1"},
            "vrf": {"vrf_table": 1042},
            "vlan": {"vlan_id": 1, "link": index},
            "macvlan": {"link": index},
            "macvtap": {"link": index},
        }
        more = settings.get(name, {})
        ip.link("add", ifname=f"{mark}-tried", kind=name, **more)


def _action(name: str, mark: str) -> None:
    from pyroute2 import IPRoute

    from labctl.network import act_csum
    from labctl.network.planned import EVERYTHING, INGRESS

    act_csum.register()
    with IPRoute() as ip:
        index = _veth(ip, mark)
        mirred = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": index}
        csum = {"kind": "csum", "update_flags": act_csum.TCP}
        action = {"mirred": mirred, "csum": csum}[name]
        ip.tc("add", "clsact", index=index)
        ip.tc("add-filter", "u32", index=index, parent=INGRESS, action=[action], **EVERYTHING)


def _qdisc(name: str, mark: str) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.tc("add", name, index=_veth(ip, mark))


def _veth(ip: Any, mark: str) -> int:
    """Make a pair of links that is needed to try something on; return the index of one."""
    ip.link("add", ifname=mark, kind="veth", peer=f"{mark}-peer")
    (index,) = ip.link_lookup(ifname=mark)
    return int(index)


def _nftables(name: str, mark: str) -> None:
    from pyroute2.nftables.expressions import masq
    from pyroute2.nftables.main import NFTables

    with NFTables(nfgen_family=int(socket.AF_INET)) as tables:
        tables.table("add", name=mark)
        tables.chain("add", table=mark, name="c", hook="postrouting", type="nat", policy=1)
        tables.rule("add", table=mark, chain="c", expressions={"masq": (masq(),)}[name])


def _bpf(name: str, mark: str) -> None:
    """Load the program that a router runs at a hook, and attach it."""
    from pyroute2 import IPRoute

    from labctl.routers import bpf, redirect

    hook = redirect.HOOKS[name]
    with IPRoute() as ip:
        index = _veth(ip, mark)
    program = bpf.load(hook.kind, redirect.assemble(hook))
    bpf.attach(program, index, hook.attach, hook.flags)


def _socket(name: str, _mark: str) -> None:
    from labctl.routers import xsk

    socket.socket({"AF_XDP": xsk.AF_XDP}[name], socket.SOCK_RAW, 0).close()


def _netlink_family(name: str, _mark: str) -> None:
    from pyroute2.netlink.generic import GenericNetlinkSocket

    with GenericNetlinkSocket() as generic:
        generic.bind(name, {})


TRIES: Mapping[str, Callable[[str, str], None]] = {
    "bpf": _bpf,
    "link": _link,
    "tc action": _action,
    "qdisc": _qdisc,
    "nftables": _nftables,
    "socket": _socket,
    "netlink family": _netlink_family,
}


def _lacks(word: str, mark: str) -> bool:
    """Try one part; `mark` is what the names begin with of all that is made for it."""
    from pyroute2.netlink.exceptions import NetlinkError

    sort, _, name = word.partition(":")
    try:
        TRIES[sort](name, mark)
    except (NetlinkError, OSError):
        return True
    return False


def main(words: Sequence[str]) -> int:
    """Print the words of the parts that are missing."""
    lacking = [word for number, word in enumerate(words) if _lacks(word, f"try{number}")]
    sys.stdout.write(json.dumps(lacking) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
