"""Many hops in one pcapng file, and back."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from pcapng import FileScanner
from pcapng.blocks import EnhancedPacket
from test_capture_stream import head, record, tail
from test_packet_checksum import eth, ip, tcp, with_state

from labctl.capture.pcapng import PcapngError, read, write
from labctl.capture.session import HopEvidence, judged
from labctl.kinds.observers.stream import parse_stream

# python-pcapng warns of its own use of its own options
pytestmark = pytest.mark.filterwarnings("ignore:Field type should not be:DeprecationWarning")

SYN = eth(ip(4, 6, with_state(4, 6, tcp(), "partial")))
NEEDS = b"\x01\0\0\0\0\0\x22\0\x10\0"


def hops() -> tuple[HopEvidence, HopEvidence]:
    first = head(hop="vm1") + record(SYN, vnet=NEEDS) + tail()
    second = head(hop="tap vm2") + record(SYN, pkttype=0)
    return judged("vm1", parse_stream(first)), judged("tap vm2", parse_stream(second), "killed")


def test_sightings_come_back_with_hop_time_direction_and_judgement(tmp_path: Path) -> None:
    path = tmp_path / "run.pcapng"
    assert write(path, hops()) == 2
    for before, after in zip(hops(), read(path).hops, strict=True):
        (one,), (other,) = before.observations, after.observations
        assert (other.hop, other.direction, other.time_ns) == (one.hop, one.direction, one.time_ns)
        assert other.judgement == one.judgement
        assert (other.record.frame, other.record.original_length) == (SYN, len(SYN))
        assert after.complete is before.complete
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("error")
def test_whoever_tests_with_labctl_sees_no_warnings_of_the_library(tmp_path: Path) -> None:
    write(tmp_path / "run.pcapng", hops())
    assert read(tmp_path / "run.pcapng").hops


def test_a_comment_beside_each_packet_tells_what_its_bytes_do_not(tmp_path: Path) -> None:
    path = tmp_path / "run.pcapng"
    write(path, hops())
    with path.open("rb") as file:
        told = [
            block.options["opt_comment"]
            for block in FileScanner(file)
            if isinstance(block, EnhancedPacket)
        ]
    assert told[0] == (
        "SYN: partial, needs_csum - virtio header: flags 1, gso_type 0, hdr_len 0, gso_size 0, "
        "csum_start 34, csum_offset 16"
    )
    assert "no metadata - nobody will finish" in told[1]


def blocks(path: Path) -> list[EnhancedPacket]:
    with path.open("rb") as file:
        return [one for one in FileScanner(file) if isinstance(one, EnhancedPacket)]


def test_flags_tell_direction_metadata_and_segmentation_to_any_reader(tmp_path: Path) -> None:
    frames = (
        record(SYN, vnet=NEEDS)
        + record(SYN, pkttype=0, vnet=b"\x02" + bytes(9))
        + record(SYN, pkttype=0)
        + record(SYN, vnet=b"\x01\x81" + bytes(8))
    )
    write(tmp_path / "x", [judged("vm1", parse_stream(head(hop="vm1") + frames + tail()))])
    flags = [int(one.options["epb_flags"]) for one in blocks(tmp_path / "x")]
    assert flags == [2 | 1 << 9, 1 | 1 << 10, 1, 2 | 1 << 9 | 1 << 11]


def test_one_packet_has_one_number_at_all_hops(tmp_path: Path) -> None:
    write(tmp_path / "x", hops())
    numbers = [one.options["epb_packetid"] for one in blocks(tmp_path / "x")]
    assert len(numbers) == 2
    assert numbers[0] == numbers[1]


def test_what_flags_say_is_read_where_no_comment_does(tmp_path: Path) -> None:
    write(tmp_path / "x", hops())
    whole = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(
        whole.replace(b"SYN: partial, needs_csum", b"SYN: something unsaid...")
    )
    (first, second) = read(tmp_path / "x").observations()
    assert str(first.judgement.metadata) == "needs_csum"
    assert str(second.judgement.metadata) == "none"


@pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")
def test_another_reader_finds_hop_flags_number_and_comment(tmp_path: Path) -> None:
    write(tmp_path / "x", hops())
    fields = ("frame.interface_name", "frame.packet_flags", "frame.packet_id", "frame.comment")
    words = ["tshark", "-r", str(tmp_path / "x"), "-T", "fields"]
    words += [word for field in fields for word in ("-e", field)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in said.splitlines()]
    assert [row[0] for row in rows] == ["vm1", "tap vm2"]
    assert [int(row[1], 0) for row in rows] == [2 | 1 << 9, 1]
    assert rows[0][2]
    assert rows[0][2] == rows[1][2]
    assert rows[0][3].startswith("SYN: partial, needs_csum")


def test_nanoseconds_survive(tmp_path: Path) -> None:
    (hop, _) = hops()
    late = 1_795_322_527_178_389_193
    seen = replace(hop.observations[0], record=replace(hop.observations[0].record, time_ns=late))
    write(tmp_path / "x", [replace(hop, observations=(seen,))])
    assert [one.time_ns for one in read(tmp_path / "x").observations()] == [late]


def test_a_hop_that_saw_nothing_still_has_its_interface(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert write(path, [judged("dumb", parse_stream(head() + tail()))]) == 0
    (dumb,) = read(path).hops
    assert (dumb.hop, dumb.observations) == ("dumb", ())


def test_garbage_and_cut_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"not a capture at all, by far")
    with pytest.raises(PcapngError):
        read(path)
    write(path, hops())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(PcapngError):
        read(path)


@pytest.mark.parametrize("value", [0x00, 0x01, 0x80, 0xFF])
def test_a_byte_that_was_changed_is_damage_or_changes_what_is_read(
    tmp_path: Path, value: int
) -> None:
    path = tmp_path / "x"
    write(path, hops())
    whole = path.read_bytes()
    refused = 0
    for place, before in enumerate(whole):
        path.write_bytes(whole[:place] + bytes([before ^ value]) + whole[place + 1 :])
        try:
            assert len(read(path).hops) <= 2
        except PcapngError:
            refused += 1
    assert bool(refused) is bool(value)
