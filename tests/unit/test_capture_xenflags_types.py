"""What dom0 makes of its kernel's types for the programs, without a kernel to load them into."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from labctl.kinds.observers.xen_rings import flags_script
from labctl.kinds.observers.xen_rings_program import MAPS, Program, programs

Structures = dict[str, tuple[int, dict[str, int]]]
IN_KERNEL: Structures = {
    "sk_buff": (232, {"len": 112, "data_len": 116, "cb": 40, "data": 200}),
    "sk_buff_list": (16, {"next": 8}),
    "net_device": (2304, {"name": 24}),
}
IN_MODULE: Structures = {
    "xenvif": (700, {"dev": 504}),
    "xenvif_queue": (
        9000,
        {"vif": 16, "id": 4, "stats": 64, "rx": 128, "rx_queue": 256, "pending_tx_info": 1000},
    ),
    "xenvif_stats": (64, {"rx_packets": 8, "tx_packets": 24}),
    "xenvif_tx_cb": (48, {"copy_pending_idx": 6}),
    "pending_tx_info": (56, {"req": 3}),
    "xen_netif_rx_back_ring": (24, {"req_cons": 4, "nr_ents": 8, "sring": 16}),
    "xen_netif_rx_sring": (72, {"ring": 64}),
}
FUNCTIONS = ("xenvif_fill_frags", "xenvif_rx_skb")
STRUCT, FUNCTION = 4, 12


class Btf:
    """Types as a kernel publishes them: names first in the kernel's strings, then in its own."""

    def __init__(self, before: Btf | None = None) -> None:
        self.types = b""
        self.strings = b"" if before else b"\0"
        self.before = before

    def name(self, text: str) -> int:
        whole = (self.before.strings if self.before else b"") + self.strings
        at = whole.find(b"\0" + text.encode() + b"\0")
        if at >= 0:
            return at + 1
        self.strings += text.encode() + b"\0"
        return len(whole)

    def add(self, name: str, kind: int, size: int, parts: int = 0, rest: bytes = b"") -> None:
        self.types += struct.pack("<III", self.name(name), kind << 24 | parts, size) + rest

    def add_structs(self, structures: Structures) -> None:
        for name, (size, members) in structures.items():
            rest = [struct.pack("<III", self.name(m), 1, place * 8) for m, place in members.items()]
            self.add(name, STRUCT, size, len(members), b"".join(rest))

    def write(self, path: Path) -> None:
        head = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings)
        )
        path.write_bytes(head + self.types + self.strings)


def of_other_kinds(btf: Btf) -> None:
    """Add one type of each kind that has something behind it, and one of a wanted name."""
    btf.add("int", 1, 4, 0, bytes(4))
    btf.add("", 3, 0, 0, bytes(12))
    btf.add("xenvif_union", 5, 8, 1, bytes(12))
    btf.add("colours", 6, 4, 2, bytes(16))
    btf.add("", 13, 0, 3, bytes(24))
    btf.add("variable", 14, 1, 0, bytes(4))
    btf.add(".data", 15, 8, 2, bytes(24))
    btf.add("tag", 17, 1, 0, bytes(4))
    btf.add("wide", 19, 8, 1, bytes(12))
    btf.add("sk_buff", 7, 0)  # a forward declaration


STUB = """
    my ($command, $attr) = @_;
    if ($command == 5) {
        my ($kind, $count) = unpack "L2", $attr;
        my $code = unpack "x8 P" . 8 * $count, $attr;
        my ($when, $id, $object) = unpack "x68 L x36 L2", $attr;
        print join(" ", "load", $kind, $when, $id, $object, unpack("H*", $code)), "\\n";
        return 40;
    }
    return 10 + $maps++ if $command == 0;
    return 99 if $command == 17;
    return $command == 2 ? 0 : -1;
"""


@pytest.fixture
def perl(tmp_path: Path) -> Any:
    """Run the observer on a kernel's types, all of it but the kernel."""
    if not shutil.which("perl"):
        pytest.skip("dom0 has perl, this machine has not")

    def run(kernel: Btf, module: Btf) -> str:
        kernel.write(tmp_path / "vmlinux")
        module.write(tmp_path / "xen_netback")
        script = flags_script().replace("/sys/kernel/btf/", f"{tmp_path}/")
        script = re.sub(r"return syscall \$BPF.*", lambda _: STUB, script)
        maps = " ".join(",".join(map(str, (*sizes, 0))) for sizes in MAPS)
        texts = "\n".join(program.text() for program in programs())
        words = ["perl", "-e", script.replace("$maps++", "$made++"), maps, texts, "vm1-eth0"]
        words[2] = "our $made = 0;\n" + words[2]
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert not done.stderr
        return done.stdout

    return run


def both(functions: Iterable[str] = (), others: Structures | None = None) -> tuple[Btf, Btf]:
    """The kernel with functions in itself, as where netback is built in, and netback's types."""
    kernel = Btf()
    of_other_kinds(kernel)
    kernel.add_structs(IN_KERNEL)
    for function in functions:
        kernel.add(function, FUNCTION, 1)
    kernel.add_structs(others or {})
    module = Btf(kernel)
    of_other_kinds(module)
    module.add_structs(IN_MODULE)
    return kernel, module


def code_of(program: Program) -> bytes:
    """Return a program's code as its text has it, where letters are zeros in a row."""
    text = program.text().split()[2]
    return bytes.fromhex(re.sub("[g-z]", lambda run: "0" * (ord(run[0]) - 100), text))


def filled(holes: str) -> dict[int, int]:
    """What belongs into the holes of a program, by instruction; maps are 10, 11 and 12."""
    found = {}
    for hole in holes.split(";"):
        at, _, what = hole.partition("=")
        total = 10 + int(what[1:]) if what.startswith("@") else 0
        for place in () if what.startswith("@") else what.split("+"):
            name, _, member = place.split("|")[0].partition(".")
            size, members = (IN_KERNEL | IN_MODULE)[name]
            total += members[member] if member else size
        found[int(at)] = total
    return found


def test_programs_are_filled_in_with_what_this_kernel_looks_like(perl: Any) -> None:
    told = perl(*both(FUNCTIONS)).splitlines()
    loads = [one.split() for one in told if one.startswith("load ")]
    assert len(loads) == len(programs())
    for (_, kind, when, number, module_fd, code), program in zip(loads, programs(), strict=True):
        assert (int(kind), int(when), int(module_fd)) == (26, program.when, 0)
        assert int(number) == 14 + FUNCTIONS.index(program.function)
        plain = code_of(program)
        holes = filled(program.text().split()[3])
        assert any(holes.values())
        loaded = bytes.fromhex(code)
        for at in range(0, len(plain), 8):
            (given,) = struct.unpack("<i", loaded[at + 4 : at + 8])
            (before,) = struct.unpack("<i", plain[at + 4 : at + 8])
            assert loaded[at : at + 4] == plain[at : at + 4]
            assert given == holes.get(at // 8, before), f"instruction {at // 8}"


def test_a_kernel_of_another_make_is_refused_not_guessed_at(perl: Any) -> None:
    assert "cannot find xenvif_fill_frags among the functions" in perl(*both())
    twice = both(FUNCTIONS[:1] * 2)
    assert "cannot find xenvif_fill_frags among the functions" in perl(*twice)
    another = both(FUNCTIONS, {"xenvif": (100, {"dev": 8})})
    assert "cannot find xenvif.dev among the types" in perl(*another)
    kernel = Btf()
    assert "cannot find xenvif_queue.vif among the types" in perl(kernel, Btf(kernel))


def test_every_program_leaves_through_its_end() -> None:
    for program in programs():
        code = list(struct.iter_unpack("<BBhi", code_of(program)))
        end = len(code) - 2
        assert code[end:] == [(0xB7, 0, 0, 0), (0x95, 0, 0, 0)], "the result is 0"
        jumps = [at + 1 + off for at, (op, _, off, _) in enumerate(code) if op in (0x15, 0x1D)]
        assert jumps == [end] * len(jumps)
