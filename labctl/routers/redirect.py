"""A router of bpf(2): it looks up the next hop and redirects, at tc's or at XDP's hook.

    python -m labctl.routers.redirect --hook WORD [--clone] --netns NAME IFACE IFACE...

What a packet's next hop is the kernel's own tables tell (bpf_fib_lookup()). What they do not tell,
a neighbour that is not known yet for one, goes on to the kernel, which forwards it by itself; so
the first packet to somebody takes that way. With `--clone` a clone of the skb is sent
(bpf_clone_redirect()), and the packet itself dropped. The programs end with this process.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from labctl.routers import bpf, holding
from labctl.routers.bpf import DW, JEQ, JGT, JNE, B, H, W

_CLONE_REDIRECT, _REDIRECT, _PULL_DATA, _FIB_LOOKUP = 13, 23, 39, 69
"""Helpers (enum bpf_func_id)."""
_IPV4, _IPV6 = 0x0008, 0xDD86
"""Ethernet types as they are loaded on a little-endian machine."""
_ETH = 14
CTX, DATA, END, STACK = 6, 7, 8, 10
"""Registers."""
FIB = -64
"""Where struct bpf_fib_lookup is on the stack; its size is 64 octets."""
_FAMILY, _IFINDEX, _SOURCE, _TARGET, _SMAC, _DMAC = (FIB + at for at in (0, 8, 16, 32, 52, 58))


@dataclass(frozen=True)
class Hook:
    """Where a program runs, and how its context looks there."""

    kind: int
    attach: int
    data: int
    end: int
    ifindex: int
    """Offsets in struct __sk_buff, or struct xdp_md: the packet's ends, and where it came in."""
    go_on: int
    """What it returns for packets that it leaves alone: TC_ACT_UNSPEC is -1, XDP_PASS 2."""
    flags: int = 0
    pulls: bool = False
    """Whether the headers must be made linear first."""


# By the words of ip-link(8) for XDP's.
HOOKS: Mapping[str, Hook] = {
    "tc": Hook(bpf.SCHED_CLS, bpf.ATTACH_TCX_INGRESS, 76, 80, 36, -1, pulls=True),
    "xdpgeneric": Hook(bpf.XDP, bpf.ATTACH_XDP, 0, 4, 12, 2, bpf.XDP_FLAGS_SKB_MODE),
    "xdpdrv": Hook(bpf.XDP, bpf.ATTACH_XDP, 0, 4, 12, 2, bpf.XDP_FLAGS_DRV_MODE),
}


def send(code: bpf.Assembler) -> None:
    """Let the packet itself go out by the interface that was looked up."""
    code.load(W, 1, STACK, _IFINDEX)
    code.set(2, 0)
    code.call(_REDIRECT)


def send_clone(code: bpf.Assembler) -> None:
    """Let a clone of it go out, and drop the packet itself (TC_ACT_SHOT)."""
    code.move(1, CTX)
    code.load(W, 2, STACK, _IFINDEX)
    code.set(3, 0)
    code.call(_CLONE_REDIRECT)
    code.set(0, 2)


def assemble(hook: Hook, hand_on: Callable[[bpf.Assembler], None] = send) -> bytes:
    """Return the program of a hook, which `hand_on` ends for packets that are to be forwarded."""
    code = bpf.Assembler()
    code.move(CTX, 1)
    if hook.pulls:
        code.set(2, _ETH + 40)
        code.call(_PULL_DATA)
    code.load(W, DATA, CTX, hook.data)
    code.load(W, END, CTX, hook.end)
    _need(code, _ETH + 20)
    for at in range(FIB, 0, 8):
        code.put(DW, STACK, at, 0)
    code.load(W, 2, CTX, hook.ifindex)
    code.store(W, STACK, _IFINDEX, 2)
    code.load(H, 2, DATA, 12)
    code.jump_if(JEQ, 2, _IPV6, "ipv6")
    code.jump_if(JNE, 2, _IPV4, "go on")
    code.load(B, 2, DATA, _ETH)
    code.jump_if(JNE, 2, 0x45, "go on")
    _alive(code, _ETH + 8)
    code.put(B, STACK, _FAMILY, int(socket.AF_INET))
    for field, at in ((_SOURCE, 12), (_TARGET, 16)):
        code.load(W, 2, DATA, _ETH + at)
        code.store(W, STACK, field, 2)
    _look_up(code)
    # The header's sum grows by what the TTL loses (RFC 1624), with the carry at the other end.
    code.load(H, 2, DATA, _ETH + 10)
    code.add(2, 1)
    code.jump_if(JGT, 2, 0xFFFE, "carry")
    code.jump("summed")
    code.label("carry")
    code.add(2, 1)
    code.label("summed")
    code.store(H, DATA, _ETH + 10, 2)
    _age(code, _ETH + 8)
    code.jump("redirect")
    code.label("ipv6")
    _need(code, _ETH + 40)
    _alive(code, _ETH + 7)
    code.put(B, STACK, _FAMILY, int(socket.AF_INET6))
    for field, at in ((_SOURCE, 8), (_TARGET, 24)):
        for part in range(0, 16, 4):
            code.load(W, 2, DATA, _ETH + at + part)
            code.store(W, STACK, field + part, 2)
    _look_up(code)
    _age(code, _ETH + 7)
    code.label("redirect")
    for field, at in ((_DMAC, 0), (_SMAC, 6)):
        for part in range(0, 6, 2):
            code.load(H, 2, STACK, field + part)
            code.store(H, DATA, at + part, 2)
    hand_on(code)
    code.leave()
    code.label("go on")
    code.set(0, hook.go_on)
    code.leave()
    return code.bytes()


def _need(code: bpf.Assembler, octets: int) -> None:
    """Go on only where a packet has so many octets."""
    code.move(2, DATA)
    code.add(2, octets)
    code.jump_if_register(JGT, 2, END, "go on")


def _alive(code: bpf.Assembler, at: int) -> None:
    """Leave a packet whose TTL or hop limit is over to the kernel."""
    code.load(B, 2, DATA, at)
    code.jump_if(JEQ, 2, 0, "go on")
    code.jump_if(JEQ, 2, 1, "go on")


def _age(code: bpf.Assembler, at: int) -> None:
    code.load(B, 2, DATA, at)
    code.add(2, -1)
    code.store(B, DATA, at, 2)


def _look_up(code: bpf.Assembler) -> None:
    """Ask for the next hop; go on where there is none (BPF_FIB_LKUP_RET_SUCCESS is 0)."""
    code.move(1, CTX)
    code.move(2, STACK)
    code.add(2, FIB)
    code.set(3, -FIB)
    code.set(4, 0)
    code.call(_FIB_LOOKUP)
    code.jump_if(JNE, 0, 0, "go on")


def redirect(interfaces: Sequence[str], asked: argparse.Namespace) -> holding.Held:
    """Let the program run at every interface; raises `OSError`."""
    hook = HOOKS[asked.hook]
    program = bpf.load(hook.kind, assemble(hook, send_clone if asked.clone else send))
    for name in interfaces:
        bpf.attach(program, socket.if_nametoindex(name), hook.attach, hook.flags)
    return holding.Held()  # the namespace's kernel has the counters


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    words = argparse.ArgumentParser(prog="redirect")
    words.add_argument("--hook", choices=[*HOOKS], required=True, help="where it runs")
    words.add_argument("--clone", action="store_true", help="send a clone (at tc's hook)")
    return holding.main(redirect, words, argv)


if __name__ == "__main__":
    sys.exit(main())
