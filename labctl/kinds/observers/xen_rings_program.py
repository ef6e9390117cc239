"""The BPF programs that `xen_rings.pl` loads into dom0's kernel, as text it can fill in.

Three programs, with the kernel functions they are attached to (drivers/net/xen-netback; run with
Linux 6.1):

- `xenvif_fill_frags(queue, skb)` of netback.c is called by `xenvif_tx_submit` for each packet of a
  guest, just when the first request's flags were turned into `skb->ip_summed`. The request itself
  is `queue->pending_tx_info[i].req`, with i in the skb's control block.
- `xenvif_rx_skb(queue)` of rx.c takes the next packet for the guest and writes its responses into
  the ring. Where it began is kept at its entry, and the first response is read from the ring's
  shared page at its return: what the guest is going to read.

No offset of a kernel structure is in here. The programs have holes, written `insn=struct.member`,
which are filled in dom0 from the types its own kernel publishes (BTF). Fixed are only the layouts
of xen/include/public/io/netif.h, which both sides of a ring agree on.

They are attached as fentry and fexit: a kprobe's program is left out while any other runs on its
CPU, which is often so here, with netback's two sides interrupting each other. Each record has the
queue's own number of the packet, so that one left out all the same is known to be missing.

Sources: Documentation/bpf/standardization/instruction-set.rst; include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

HEAD = 128
"""Bytes read from the front of each packet: netback copies so many into its linear part."""
RECORD = struct.Struct(f"<QQIi16s16sIII4x{HEAD}s")
"""One packet, as the programs hand it on: nanoseconds of CLOCK_MONOTONIC, the queue's count of
packets, direction, error of reading the bytes, the vif's name, the ring's entry, the skb's len and
data_len, the queue's number, the bytes."""
TX, RX = 1, 2
"""Directions of `RECORD`, as seen by the guest: from it, to it."""

RECORDS, NAMES, CALLS = range(3)
"""The maps by number: the records' queue, vifs by name with their counts, calls under way."""
MAPS = ((22, 0, RECORD.size, 8192), (1, 16, 8, 1024), (1, 8, 24, 1024))
"""BPF_MAP_TYPE_QUEUE and two of BPF_MAP_TYPE_HASH: type, bytes of key and value, entries."""

# Places in the record, which lies on the BPF stack at the negative offset _AT.
_AT = -RECORD.size - 8
_TIME, _NUMBER, _WAY, _ERROR, _NAME, _ENTRY = (0, 8, 16, 20, 24, 40)
_LEN, _DATA_LEN, _QUEUE_ID, _HEAD = (56, 60, 64, 72)
_SCRATCH = _AT - 8
_CALL = _SCRATCH - 24
"""What is kept of a call: queue, skb, index of its first response."""

_R0, _R1, _R2, _R3, _R4, _QUEUE, _SKB, _ENTRY_AT, _COUNT, _FP = (0, 1, 2, 3, 4, 6, 7, 8, 9, 10)
_FENTRY, _FEXIT = 24, 25
_FIRST, _SECOND = 0, 8  # arguments
_LOOKUP, _UPDATE, _TIME_NS, _PID, _PUSH, _READ, _READ_TEXT = 1, 2, 5, 14, 87, 113, 115
_RX_ENTRY_SIZE = 8  # union of a request and a response


@dataclass
class Program:
    """One program under construction."""

    function: str
    """The kernel function it is attached to."""
    when: int = _FENTRY
    code: list[bytes] = field(default_factory=list)
    holes: list[str] = field(default_factory=list)
    _leaves: list[int] = field(default_factory=list)

    def add(self, op: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> None:
        """Append one instruction."""
        self.code.append(struct.pack("<BBhi", op, src << 4 | dst, off, imm))

    def add_hole(self, op: int, dst: int, places: str) -> None:
        """Append one whose immediate dom0 adds up from `places` of its kernel's structures."""
        self.holes.append(f"{len(self.code)}={places}")
        self.add(op, dst)

    def move(self, dst: int, src: int, plus: int = 0) -> None:
        """Copy a register, and add a number to it."""
        self.add(0xBF, dst, src)
        if plus:
            self.add(0x07, dst, imm=plus)

    def load(self, dst: int, src: int, off: int, size: int = 8) -> None:
        """Load a number of `size` bytes from the address in a register plus `off`."""
        self.add({8: 0x79, 4: 0x61, 2: 0x69}[size], dst, src, off)

    def call(self, helper: int) -> None:
        """Call a helper of the kernel by its number; it overwrites registers 0 to 5."""
        self.add(0x85, imm=helper)

    def read(self, to: int, size: int, base: int, places: str = "", helper: int = _READ) -> None:
        """Copy kernel memory at a register's address, plus `places`, to the stack."""
        self.move(_R3, base)
        if places:
            self.add_hole(0x07, _R3, places)
        self.move(_R1, _FP, to)
        self.add(0xB7, _R2, imm=size)
        self.call(helper)

    def map(self, number: int) -> None:
        """Load a map for a helper's first argument."""
        self.holes.append(f"{len(self.code)}=@{number}")
        self.add(0x18, _R1, src=1)
        self.add(0)

    def leave_if(self, op: int, dst: int, src: int = 0, imm: int = 0) -> None:
        """End the program where a jump's condition holds."""
        self._leaves.append(len(self.code))
        self.add(op, dst, src, imm=imm)

    def text(self) -> str:
        """Return it for xen_rings.pl: function, type of attachment, code in hex, holes.

        Zeros in a row are one letter, g for three: an ssh server may bound a command's length.
        """
        code = list(self.code)
        for place in self._leaves:
            op, registers, _, imm = struct.unpack("<BBhi", code[place])
            code[place] = struct.pack("<BBhi", op, registers, len(code) - place - 1, imm)
        code += [struct.pack("<BBhi", 0xB7, 0, 0, 0), struct.pack("<BBhi", 0x95, 0, 0, 0)]
        text = re.sub("0{3,22}", _run, b"".join(code).hex())
        return f"{self.function} {self.when} {text} {';'.join(self.holes)}"


_IF_EQUAL, _IF_EQUAL_REG = 0x15, 0x1D


def _run(zeros: re.Match[str]) -> str:
    return chr(ord("g") + len(zeros[0]) - 3)


def _begin_record(program: Program, way: int, counter: str) -> None:
    """Leave for a vif that nobody watches; count the packet and note name, lengths and bytes."""
    program.add(0x7A, _FP, off=_AT + _NAME)
    program.add(0x7A, _FP, off=_AT + _NAME + 8)
    program.read(_SCRATCH, 8, _QUEUE, "xenvif_queue.vif")
    program.load(_R3, _FP, _SCRATCH)
    program.read(_SCRATCH, 8, _R3, "xenvif.dev")
    program.load(_R3, _FP, _SCRATCH)
    program.read(_AT + _NAME, 16, _R3, "net_device.name", _READ_TEXT)
    program.map(NAMES)
    program.move(_R2, _FP, _AT + _NAME)
    program.call(_LOOKUP)
    program.leave_if(_IF_EQUAL, _R0)
    program.move(_COUNT, _R0)
    program.read(_AT + _LEN, 4, _SKB, "sk_buff.len")
    program.read(_AT + _DATA_LEN, 4, _SKB, "sk_buff.data_len")
    program.load(_R1, _FP, _AT + _LEN, 4)
    program.load(_R2, _FP, _AT + _DATA_LEN, 4)
    # Nothing in the linear part: the overflow of another packet with more pages than an skb has.
    program.leave_if(_IF_EQUAL_REG, _R1, _R2)
    program.add(0x7A, _FP, off=_AT + _QUEUE_ID)
    program.read(_AT + _QUEUE_ID, 4, _QUEUE, "xenvif_queue.id")
    program.read(_AT + _NUMBER, 8, _QUEUE, f"xenvif_queue.stats+xenvif_stats.{counter}")
    program.read(_SCRATCH, 8, _SKB, "sk_buff.data")
    program.load(_R3, _FP, _SCRATCH)
    program.read(_AT + _HEAD, HEAD, _R3)
    program.add(0x7A, _FP, off=_AT + _WAY, imm=way)
    program.add(0x63, _FP, _R0, _AT + _ERROR)


def _push_record(program: Program) -> None:
    program.call(_TIME_NS)
    program.add(0x7B, _FP, _R0, _AT + _TIME)
    program.add(0xB7, _R1, imm=1)
    program.add(0xDB, _COUNT, _R1)  # atomic: a vif may have several queues
    program.map(RECORDS)
    program.move(_R2, _FP, _AT)
    program.add(0xB7, _R3)
    program.call(_PUSH)


def from_guest() -> Program:
    """Note a packet from a guest with its first request."""
    program = Program("xenvif_fill_frags")
    program.load(_QUEUE, _R1, _FIRST)
    program.load(_SKB, _R1, _SECOND)
    _begin_record(program, TX, "rx_packets")
    index = "sk_buff.cb+xenvif_tx_cb.copy_pending_idx|xenvif_tx_cb.pending_idx"
    program.read(_SCRATCH, 2, _SKB, index)
    program.load(_ENTRY_AT, _FP, _SCRATCH, 2)
    program.add_hole(0x27, _ENTRY_AT, "pending_tx_info.")  # times its size
    program.add(0x0F, _ENTRY_AT, _QUEUE)
    program.read(_AT + _ENTRY, 16, _ENTRY_AT, "xenvif_queue.pending_tx_info+pending_tx_info.req")
    _push_record(program)
    return program


def to_guest_begins() -> Program:
    """Keep what a call is about: its arguments are gone when it returns."""
    program = Program("xenvif_rx_skb")
    program.load(_QUEUE, _R1, _FIRST)
    program.add(0x7B, _FP, _QUEUE, _CALL)
    program.add(0x7A, _FP, off=_CALL + 16)
    first = "sk_buff_list.next|sk_buff_head.next"
    program.read(_CALL + 8, 8, _QUEUE, f"xenvif_queue.rx_queue+{first}")
    program.read(_CALL + 16, 4, _QUEUE, "xenvif_queue.rx+xen_netif_rx_back_ring.req_cons")
    program.call(_PID)
    program.add(0x7B, _FP, _R0, _SCRATCH)
    program.map(CALLS)
    program.move(_R2, _FP, _SCRATCH)
    program.move(_R3, _FP, _CALL)
    program.add(0xB7, _R4)
    program.call(_UPDATE)
    return program


def to_guest_ends() -> Program:
    """Note a packet to a guest with its first response, read from the shared ring."""
    program = Program("xenvif_rx_skb", when=_FEXIT)
    program.call(_PID)
    program.add(0x7B, _FP, _R0, _SCRATCH)
    program.map(CALLS)
    program.move(_R2, _FP, _SCRATCH)
    program.call(_LOOKUP)
    program.leave_if(_IF_EQUAL, _R0)
    program.load(_QUEUE, _R0, 0)
    program.load(_SKB, _R0, 8)
    program.load(_ENTRY_AT, _R0, 16)
    _begin_record(program, RX, "tx_packets")
    ring = "xenvif_queue.rx+xen_netif_rx_back_ring"
    program.read(_SCRATCH, 4, _QUEUE, f"{ring}.nr_ents")  # a power of two
    program.load(_R1, _FP, _SCRATCH, 4)
    program.add(0x07, _R1, imm=-1)
    program.add(0x5F, _ENTRY_AT, _R1)
    program.add(0x27, _ENTRY_AT, imm=_RX_ENTRY_SIZE)
    program.read(_SCRATCH, 8, _QUEUE, f"{ring}.sring")
    program.load(_R1, _FP, _SCRATCH)
    program.add(0x0F, _ENTRY_AT, _R1)
    program.read(_AT + _ENTRY, _RX_ENTRY_SIZE, _ENTRY_AT, "xen_netif_rx_sring.ring")
    program.add(0x7A, _FP, off=_AT + _ENTRY + _RX_ENTRY_SIZE)
    _push_record(program)
    return program


def programs() -> list[Program]:
    """Return all, in the order to attach them: no return is noted whose beginning was not."""
    return [from_guest(), to_guest_begins(), to_guest_ends()]
