"""Capture files of every format and in every state of damage."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inspect_files import (
    MICRO,
    NANO,
    block,
    interface,
    old_packet,
    on_link,
    option,
    packet,
    pcap,
    section,
    simple_packet,
    write,
)
from test_packet_checksum import eth, ip, tcp, udp, with_state
from test_packet_tunnels import vxlan

from labctl.errors import LabctlError, UsageError
from labctl.inspect.batch import Windows
from labctl.inspect.report import Report, by_state
from labctl.inspect.run import inspect
from labctl.inspect.source import FormatError
from labctl.packet import link_types
from labctl.packet.checksum import Checksum

VALID = eth(ip(4, 6, with_state(4, 6, tcp(), "valid")))
PARTIAL = eth(ip(4, 6, with_state(4, 6, tcp(), "partial")))
BAD = eth(ip(4, 17, with_state(4, 17, udp(b"abc"), "bad")))
THREE = [VALID, PARTIAL, BAD]


def states(report: Report) -> dict[str, int]:
    return {state: count for state, count in by_state(report.counts).items() if count}


def look(folder: Path, data: bytes, window: int = 1 << 16) -> Report:
    return inspect(write(folder, data), window=window)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "unit"), [(MICRO, 1000), (NANO, 1)])
def test_pcap_in_either_byte_order_and_unit(
    tmp_path: Path, order: str, magic: int, unit: int
) -> None:
    report = look(tmp_path, pcap(THREE, order=order, magic=magic))
    assert states(report) == {"valid": 1, "partial": 1, "bad": 1}
    assert (report.first_ns, report.last_ns) == (1000 * 10**9, 1002 * 10**9 + 2 * unit)
    (bad,) = report.offenders[Checksum.BAD]
    assert (bad.number, bad.what, bad.time_ns) == (3, "UDP", report.last_ns)
    assert bad.flow == "udp 10.0.0.1:5000 > 10.0.0.2:53"
    assert len({bad.field, bad.valid, bad.partial}) == 3


@pytest.mark.parametrize("link", sorted(link_types.NAMES))
def test_every_known_link_type(tmp_path: Path, link: int) -> None:
    version = 6 if link == link_types.IPV6 else 4
    frames = [
        on_link(link, ip(version, 6, with_state(version, 6, tcp(), state)))
        for state in ("valid", "partial", "bad")
    ]
    report = look(tmp_path, pcap(frames, link=link))
    assert states(report) == {"valid": 1, "partial": 1, "bad": 1}
    assert report.links == [link_types.NAMES[link]]


def test_an_unknown_link_type_is_said(tmp_path: Path) -> None:
    report = look(tmp_path, pcap(THREE, link=105))
    assert states(report) == {"unknown": 3}
    assert report.links == ["link type 105"]
    assert "3 frames are of a link type unknown here" in report.meaning[0]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_with_all_packet_blocks_and_strangers_between(tmp_path: Path, order: str) -> None:
    name = option(2, b"eth7", order)
    data = (
        section(order)
        + block(0x0BAD, b"unknown" * 9, order)
        + interface(order, options=name + option(9, b"\x09", order))
        + packet(VALID, order, ticks=5 * 10**9 + 7)
        + block(5, bytes(12), order)  # interface statistics
        + simple_packet(PARTIAL, order)
        + old_packet(BAD, order, ticks=6 * 10**9)
    )
    report = look(tmp_path, data)
    assert not report.note
    assert states(report) == {"valid": 1, "partial": 1, "bad": 1}
    assert (report.first_ns, report.last_ns) == (5 * 10**9 + 7, 6 * 10**9)
    (partial,) = report.offenders[Checksum.PARTIAL]
    assert (partial.number, partial.time_ns, partial.interface) == (2, None, "eth7")


def test_pcapng_sections_have_interfaces_and_byte_orders_of_their_own(tmp_path: Path) -> None:
    raw = on_link(link_types.RAW, ip(4, 6, with_state(4, 6, tcp(), "valid")))
    data = (
        section("<")
        + interface("<")
        + interface("<", link=link_types.RAW)
        + packet(raw, "<", number=1)
        + packet(VALID, "<")
        + section(">")
        + interface(">", link=link_types.COOKED_V2)
        + packet(on_link(link_types.COOKED_V2, BAD[14:]), ">")
    )
    report = look(tmp_path, data)
    assert states(report) == {"valid": 2, "bad": 1}
    assert report.links == ["Ethernet", "raw IP", "Linux cooked v2"]


@pytest.mark.parametrize(
    ("resolution", "ticks", "seconds"),
    [(b"\x00", 7, 7), (b"\x03", 7000, 7), (b"\x8a", 7 << 10, 7), (b"", 7_000_000, 7)],
)
def test_pcapng_time_units(tmp_path: Path, resolution: bytes, ticks: int, seconds: int) -> None:
    options = (option(9, resolution) if resolution else b"") + option(14, struct.pack("<q", -2))
    data = section() + interface(options=options) + packet(VALID, ticks=ticks)
    assert look(tmp_path, data).first_ns == (seconds - 2) * 10**9


def test_a_simple_packet_is_cut_by_its_interface(tmp_path: Path) -> None:
    data = section() + interface(snap=40) + simple_packet(VALID[:40], original=len(VALID))
    report = look(tmp_path, data)
    assert states(report) == {"unknown": 1}
    assert report.to_json()["reasons"] == {"cut by the capture's snap length": 1}


def test_labctls_own_comments_tell_metadata_and_mtu(tmp_path: Path) -> None:
    data = (
        section(options=option(4, b"labctl"))
        + interface(options=option(2, b"vm1-eth0") + option(3, b"vm1-eth0, MTU 9000, Linux 6.1"))
        + packet(PARTIAL, options=option(1, b"SYN: partial, needs_csum"))
        + packet(PARTIAL, options=option(1, b"SYN: partial, no metadata - nobody will finish it"))
        + packet(PARTIAL, options=option(1, b"SYN: partial, no metadata, gso tcpv4"))
        + packet(PARTIAL)
    )
    report = look(tmp_path, data)
    assert states(report) == {"partial": 4}
    assert report.offences[Checksum.PARTIAL] == 2
    assert [one.number for one in report.offenders[Checksum.PARTIAL]] == [2, 4]
    assert report.offenders[Checksum.PARTIAL][0].interface == "vm1-eth0"
    assert "without needs_csum" in report.meaning[0]
    assert report.meaning[0].endswith("missing: vm1-eth0.")
    others = look(tmp_path, data.replace(b"labctl", b"editor"))
    assert others.offences[Checksum.PARTIAL] == 4  # comments of others are not evidence


@pytest.mark.parametrize("order", ["<", ">"])
def test_flags_tell_metadata_in_anybodys_file(tmp_path: Path, order: str) -> None:
    def flagged(bits: int, *, comment: bytes = b"") -> bytes:
        options = option(1, comment, order) if comment else b""
        options += option(2, bits.to_bytes(4, "little" if order == "<" else "big"), order)
        return packet(PARTIAL, order, options=options)

    head = section(order, option(4, b"editor", order)) + interface(order)
    marked = flagged(1 << 9) + flagged(1 | 1 << 9, comment=b"a remark") + flagged(1 << 9 | 1 << 11)
    report = look(tmp_path, head + marked)
    assert states(report) == {"partial": 3}
    assert report.offences[Checksum.PARTIAL] == 0
    report = look(tmp_path, head + marked + flagged(1) + packet(PARTIAL, order))
    assert report.offences[Checksum.PARTIAL] == 2
    assert [one.number for one in report.offenders[Checksum.PARTIAL]] == [4, 5]
    assert report.meaning[0].endswith("missing: interface 0.")
    silent = look(tmp_path, head + flagged(1) + packet(PARTIAL, order))
    assert silent.offences[Checksum.PARTIAL] == 2
    assert "missing" not in " ".join(silent.meaning)  # nothing says that marks are kept here


def test_frames_inside_vxlan_stand_beside_their_outer_state(tmp_path: Path) -> None:
    tunnel = eth(ip(4, 17, with_state(4, 17, vxlan(PARTIAL), "valid")))
    told = look(tmp_path, pcap([tunnel])).to_json()
    assert told["states"]["valid"] == 1
    assert told["inside_vxlan"]["by_outer_state"]["valid"]["partial"] == 1
    (offender,) = told["offenders"]["partial"]
    assert (offender["outer"], offender["number"]) == ("valid", 1)
    assert offender["flow"] == "tcp 10.0.0.1:40000 > 10.0.0.2:22 in VXLAN 42"
    assert "tunnel" in " ".join(told["meaning"])


FILES = {
    "pcap": (pcap(THREE * 2), [24 + sum(16 + len(f) for f in (THREE * 2)[:n]) for n in range(7)]),
}
_parts = [section() + interface(), *(packet(frame, ticks=1) for frame in THREE * 2)]
FILES["pcapng"] = (b"".join(_parts), [len(b"".join(_parts[: n + 1])) for n in range(7)])


@pytest.mark.parametrize("kind", sorted(FILES))
def test_a_file_cut_anywhere_is_judged_up_to_there(tmp_path: Path, kind: str) -> None:
    data, ends = FILES[kind]
    near = {end + step for end in ends for step in (-17, -4, -1, 0, 1, 4, 11, 12, 15, 16, 17, 31)}
    for size in sorted(near & set(range(1, len(data)))):
        whole = sum(end <= size for end in ends[1:])
        try:
            report = look(tmp_path, data[:size], window=4096)
        except FormatError:
            assert size < ends[0]
            continue
        assert report.frames == whole
        if size in ends:
            assert not report.note
        elif size > ends[0]:
            assert "cut within" in report.note


@pytest.mark.parametrize("data", [b"", b"PK\3\4 a zip file", b"\0" * 100, b"\xd4\xc3\xb2\xa1"])
def test_what_is_no_capture_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        look(tmp_path, data)
    assert str(tmp_path) in caught.value.message
    assert len(caught.value.message.splitlines()) == 1


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="cannot be read"):
            inspect(path)


def hostile() -> dict[str, bytes]:
    start = section() + interface()
    huge = struct.pack("<IIII", 1, 2, 0xFFFFFFF0, 0xFFFFFFF0)
    return {
        "pcap record": pcap([VALID]) + huge,
        "packet block": start + packet(VALID) + struct.pack("<II", 6, 0xFFFFFFF0) + bytes(64),
        "captured": start + packet(VALID) + block(6, struct.pack("<IIIII", 0, 0, 0, 1 << 30, 1)),
        "interface": start + packet(VALID) + packet(VALID, number=9),
        "small block": start + packet(VALID) + struct.pack("<III", 5, 4, 4),
        "odd block": start + packet(VALID) + struct.pack("<III", 5, 13, 13) + bytes(16),
        "trailer": start + packet(VALID) + packet(VALID)[:-4] + b"\0\0\0\0",
        "stranger": start + packet(VALID) + struct.pack("<II", 0x0BAD, 0xFFFFFFF0) + bytes(64),
        "section": start + packet(VALID) + section()[:8] + b"what" + bytes(16),
        "options": start + packet(VALID) + interface(options=struct.pack("<HH", 2, 0xFFFF)),
    }


@pytest.mark.parametrize("name", sorted(hostile()))
def test_hostile_lengths_take_no_memory_and_no_frames(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, hostile()[name])
    tracemalloc.start()
    try:
        report = inspect(path, window=1 << 16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert states(report) == {"valid": 1}
    assert bool(report.note) == (name != "options")
    assert peak < 4 << 20


def test_the_part_before_damage_in_a_later_window_counts(tmp_path: Path) -> None:
    many = pcap([VALID] * 3000)
    report = look(tmp_path, many + struct.pack("<IIII", 1, 2, 1 << 30, 1 << 30), window=8192)
    assert (report.frames, states(report)) == (3000, {"valid": 3000})
    assert f"byte {len(many)}" in report.note


def test_windows_of_any_size_give_the_same_answer(tmp_path: Path) -> None:
    stranger = block(0x0BAD, bytes(50_000))
    parts = [packet(THREE[n % 3], ticks=n) for n in range(500)]
    data = section() + interface() + b"".join(parts[:250]) + stranger + b"".join(parts[250:])
    told = [look(tmp_path, data, window=size).to_json() for size in (1 << 16, 1 << 17, 1 << 22)]
    assert told[0]["frames"] == 500
    assert told[0] == told[1] == told[2]


def test_a_block_larger_than_any_window_is_passed_over(tmp_path: Path) -> None:
    stranger = block(0x0BAD, bytes(3 << 20))
    data = section() + interface() + packet(VALID) + stranger + packet(BAD)
    report = look(tmp_path, data)
    assert (states(report), report.note) == ({"valid": 1, "bad": 1}, "")
    cut = look(tmp_path, data[: -len(packet(BAD)) - 4])
    assert (states(cut), "cut within" in cut.note) == ({"valid": 1}, True)


def test_gzip_is_read_and_its_damage_is_a_cut(tmp_path: Path) -> None:
    packed = gzip.compress(pcap(THREE * 1000))
    assert look(tmp_path, packed).frames == 3000
    cut = look(tmp_path, packed[: len(packed) // 2])
    assert 0 < cut.frames < 3000
    assert "gzip" in cut.note
    with pytest.raises(FormatError):
        look(tmp_path, gzip.compress(b"not a capture"))


@settings(max_examples=60, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=200).map(lambda tail: section() + interface() + tail),
        st.binary(max_size=200).map(lambda tail: pcap([]) + tail),
        st.tuples(st.integers(0, 400), st.integers(0, 255)).map(
            lambda change: (
                FILES["pcapng"][0][: change[0]]
                + bytes([change[1]])
                + FILES["pcapng"][0][change[0] + 1 :]
            )
        ),
    )
)
def test_no_bytes_make_it_fail_but_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    with contextlib.suppress(LabctlError):  # anything else is a fault
        look(tmp_path_factory.getbasetemp(), data)


def test_windows_read_short_reads_to_the_end() -> None:
    class Dribble(io.RawIOBase):
        left = 1000

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            count = min(7, self.left, len(buffer))
            self.left -= count
            return count

    windows = Windows(Dribble().readinto, 256)
    got = windows.end
    while windows.more(windows.end):
        got += windows.end
    assert got == 1000


@pytest.mark.parametrize("digits", [30, 5000])
def test_an_mtu_that_is_none_is_not_believed(tmp_path: Path, digits: int) -> None:
    about = option(2, b"vm1-eth0") + option(3, b"vm1-eth0, MTU " + b"9" * digits)
    data = section(options=option(4, b"labctl")) + interface(options=about) + packet(bytes(2000))
    report = inspect(write(tmp_path, data, "file.pcapng"))
    assert (report.frames, report.note, report.interfaces[0][0].mtu) == (1, "", None)
