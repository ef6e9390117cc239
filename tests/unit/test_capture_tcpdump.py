"""What tcpdump in a guest writes, read as it comes; whoever wrote it."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.guests import tools
from labctl.kinds.observers.stream import StreamError
from labctl.kinds.observers.tcpdump import TcpdumpParser
from labctl.packet.checksum import Checksum, Metadata, classify
from labctl.topology.guest_tools import GuestTools

MAC = "52:54:00:00:00:01"
LINE = f"labctl-tcpdump 1 1500 {MAC} 1700000000 6.1.0\n".encode()
FILE = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)
COUNTED = b"2 packets captured\n3 packets received by filter\n1 packet dropped by kernel\n"
END = b"\xff" * 16 + b"1700000009\n" + COUNTED


def frame(destination: str, source: str) -> bytes:
    data = bytes.fromhex((destination + source).replace(":", "")) + b"\x08\x06" + bytes(46)
    return struct.pack("<IIII", 1700000001, 5, len(data), len(data)) + data


WHOLE = LINE + FILE + frame("ff:ff:ff:ff:ff:ff", MAC) + frame(MAC, "52:54:00:00:00:02") + END


def read(*pieces: bytes, most: int | None = None) -> TcpdumpParser:
    parser = TcpdumpParser("vm1:eth0", most)
    for piece in pieces:
        parser.feed(piece)
    return parser


def test_frames_have_their_times_and_directions_and_untold_metadata() -> None:
    found = read(WHOLE).stream()
    assert found.header is not None
    assert (found.header.mtu, found.header.observer) == (1500, "tcpdump")
    assert [one.direction for one in found.records] == ["out", "in"]
    assert {one.time_ns for one in found.records} == {1700000001_000000005}
    assert {one.classify().metadata for one in found.records} == {Metadata.UNTOLD}
    assert found.trailer is not None
    assert (found.trailer.packets, found.trailer.drops, found.trailer.written) == (3, 1, 2)
    assert not found.cut


@given(st.lists(st.integers(0, len(WHOLE)), max_size=5).map(sorted))
def test_it_is_the_same_however_it_comes(cuts: list[int]) -> None:
    ends = [0, *cuts, len(WHOLE)]
    pieces = [WHOLE[begin:end] for begin, end in itertools.pairwise(ends)]
    assert read(*pieces).stream() == read(WHOLE).stream()


@pytest.mark.parametrize("length", range(0, len(WHOLE), 7))
def test_what_is_cut_is_cut(length: int) -> None:
    assert read(WHOLE[:length]).stream().cut


@pytest.mark.parametrize(
    "data",
    [b"sh: tcpdump: not found\n", b"x" * 300, LINE.replace(b"1500", b"15x0") + FILE,
     LINE + FILE.replace(b"\x4d\x3c", b"\xd4\xc3"), b"labctl-tcpdump 1 " + b"9" * 300],
)  # fmt: skip
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(StreamError):
        read(data)


def test_a_length_that_cannot_be_ends_it() -> None:
    found = read(LINE + FILE + struct.pack("<IIII", 0, 0, 1 << 30, 60) + bytes(999)).stream()
    assert found.cut
    assert "damaged" in found.note


@given(st.binary(max_size=400))
def test_nothing_behind_its_header_does_harm(data: bytes) -> None:
    read(LINE + FILE + data).stream()


def test_no_more_is_kept_than_asked_for() -> None:
    found = read(WHOLE, most=1).stream()
    assert (len(found.records), found.left_out) == (1, 1)


def test_untold_metadata_accuses_nobody() -> None:
    from labctl.packet.af_packet import UNTOLD

    syn = bytes.fromhex(
        "525400000002525400000001080045000028000140004006269c0a0001010a000102"
        "04d2001600000000000000005002faf0145a0000"
    )
    open_sum = classify(syn).pseudo_sum
    assert open_sum is not None
    syn = syn[:50] + open_sum.to_bytes(2, "big") + syn[52:]
    without, untold = (classify(syn, status=status) for status in (0, UNTOLD))
    assert without.state is untold.state is Checksum.PARTIAL
    assert without.lost
    assert not untold.lost
    assert "metadata untold" in untold.describe()


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("labctl: has perl\nlabctl: has ethtool\n", GuestTools(("perl", "ethtool"))),
        ("motd\nlabctl: has nothing\n\x1b[2J", GuestTools()),
        ("labctl: has perl\nlabctl: lacks root\n",
         GuestTools(("perl",), "who logs in is not root")),
        ("labctl: has perl\nlabctl: lacks eth1\n",
         GuestTools(("perl",), "its eth1 has another name there")),
        ("labctl: has perl\nlabctl: lacks \x1b[2J\n", GuestTools(("perl",))),
    ],
)  # fmt: skip
def test_what_a_guest_says_it_has_is_read_by_known_words(said: str, found: GuestTools) -> None:
    assert tools.parse(said) == found
    assert bool(found.unseen) == (not found.observer)
