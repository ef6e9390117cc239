"""A stateless address translation of bpf(2), as of a sandbox with one address inside.

    python -m labctl.routers.translate --inside A --outside B [--stale] --netns NAME IFACE IFACE...

Where a packet leaves the router the source A becomes B, and where one comes in the destination B
becomes A, by programs at tc's egress and ingress; the kernel forwards between. The IPv4 header's
sum is carried along (bpf_l3_csum_replace()), and that of TCP and UDP too (bpf_l4_csum_replace()
with BPF_F_PSEUDO_HDR, which knows of unfinished ones), unless `--stale` leaves that out. IPv6
passes as it is. The programs end with this process.
"""

from __future__ import annotations

import argparse
import socket
import struct
import sys
from collections.abc import Sequence

from labctl.packet.frame import TCP, UDP
from labctl.routers import bpf, holding
from labctl.routers.bpf import JGT, JNE, B, H, W
from labctl.routers.redirect import CTX, DATA, END, HOOKS, STACK

_STORE_BYTES, _L3_CSUM_REPLACE, _L4_CSUM_REPLACE, _PULL_DATA = 9, 10, 11, 39
_PSEUDO_HDR, _MARK_MANGLED_0 = 0x10, 0x20
"""BPF_F_*: the address is in the pseudo-header; a UDP sum of 0 is none, and none is made."""
_ETH, _IPV4 = 14, 0x0008
_SUM, _SOURCE, _TARGET = _ETH + 10, _ETH + 12, _ETH + 16
_L4 = _ETH + 20
_FIELDS = ((TCP, _L4 + 16, 0), (UDP, _L4 + 6, _MARK_MANGLED_0))
"""By protocol: where its checksum is, and flags."""
NUMBER = 9
"""The register that holds the protocol's number."""


def assemble(at: int, before: str, then: str, *, stale: bool) -> bytes:
    """Return the program that writes an IPv4 address over another at a place in the frame."""
    one, other = (int(*struct.unpack("=I", socket.inet_aton(text))) for text in (before, then))
    hook = HOOKS["tc"]
    code = bpf.Assembler()
    code.move(CTX, 1)
    code.set(2, _L4)
    code.call(_PULL_DATA)
    code.load(W, DATA, CTX, hook.data)
    code.load(W, END, CTX, hook.end)
    code.move(2, DATA)
    code.add(2, _L4)
    code.jump_if_register(JGT, 2, END, "go on")
    code.load(H, 2, DATA, 12)
    code.jump_if(JNE, 2, _IPV4, "go on")
    code.load(B, 2, DATA, _ETH)
    code.jump_if(JNE, 2, 0x45, "go on")
    code.load(B, NUMBER, DATA, _ETH + 9)
    code.load(W, 2, DATA, at)
    code.set_word(3, one)
    code.jump_if_register(JNE, 2, 3, "go on")
    for number, field, flags in () if stale else _FIELDS:
        beyond = f"not {number}"
        code.jump_if(JNE, NUMBER, number, beyond)
        _sum(code, _L4_CSUM_REPLACE, field, one, other, 4 | _PSEUDO_HDR | flags)
        code.label(beyond)
    _sum(code, _L3_CSUM_REPLACE, _SUM, one, other, 4)
    code.set_word(2, other)
    code.store(W, STACK, -4, 2)
    code.move(1, CTX)
    code.set(2, at)
    code.move(3, STACK)
    code.add(3, -4)
    code.set(4, 4)
    code.set(5, 0)
    code.call(_STORE_BYTES)
    code.label("go on")
    code.set(0, hook.go_on)
    code.leave()
    return code.bytes()


def _sum(code: bpf.Assembler, helper: int, at: int, before: int, then: int, flags: int) -> None:
    code.move(1, CTX)
    code.set(2, at)
    code.set_word(3, before)
    code.set_word(4, then)
    code.set(5, flags)
    code.call(helper)


def translate(interfaces: Sequence[str], asked: argparse.Namespace) -> holding.Held:
    """Let the programs run at every interface; raises `OSError`."""
    for attach, at, before, then in (
        (bpf.ATTACH_TCX_EGRESS, _SOURCE, asked.inside, asked.outside),
        (bpf.ATTACH_TCX_INGRESS, _TARGET, asked.outside, asked.inside),
    ):
        program = bpf.load(bpf.SCHED_CLS, assemble(at, before, then, stale=asked.stale))
        for name in interfaces:
            bpf.attach(program, socket.if_nametoindex(name), attach)
    return holding.Held()  # the namespace's kernel has the counters


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    words = argparse.ArgumentParser(prog="translate")
    words.add_argument("--inside", required=True, help="the address that is hidden")
    words.add_argument("--outside", required=True, help="the address that it is hidden behind")
    words.add_argument("--stale", action="store_true", help="leave the sums of TCP and UDP alone")
    return holding.main(translate, words, argv)


if __name__ == "__main__":
    sys.exit(main())
