"""What `labctl inspect` says and exits with: counts are one thing, their meaning another."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from inspect_files import pcap, write
from test_packet_checksum import MACS, eth, ip, tcp, udp, with_state
from test_packet_tunnels import inside, local, vxlan

from labctl.cli.inspect import inspect_file
from labctl.inspect.run import inspect


def between(
    state: str, here: int, there: int, *, flags: int = 0x02, size: int = 0, number: int = 6
) -> bytes:
    """A frame from host 10.0.0.`here`; its pseudo-header's sum stays the same both ways."""
    body = tcp(flags, b"x" * size) if number == 6 else udp(b"x" * size)
    packet = ip(4, number, with_state(4, number, body, state))
    # 10.0.0.1 to 10.0.0.2 becomes another pair with the same sum, so that no field changes.
    assert here + there == 3
    ends = bytes([10, 0, 0, here, 10, 0, 0, there])
    return MACS + b"\x08\0" + packet[:12] + ends + packet[20:]


def meaning(folder: Path, *frames: bytes) -> str:
    return "\n".join(inspect(write(folder, pcap(frames))).meaning)


def run(*words: str, data: bytes | None = None) -> Result:
    return CliRunner().invoke(inspect_file, list(words), input=data)


def test_one_offloading_host_was_captured_at_the_sender(tmp_path: Path) -> None:
    said = meaning(tmp_path, between("partial", 1, 2), between("valid", 2, 1))
    assert "all sent by 10.0.0.1" in said
    assert "captured" not in said.split("10.0.0.1")[0]
    assert "made at this sender" in said


def test_partial_in_both_directions_is_between_machines_of_one_host(tmp_path: Path) -> None:
    said = meaning(tmp_path, between("partial", 1, 2), between("partial", 2, 1))
    assert "in both directions" in said
    assert "labctl trace" in said


def test_merged_frames_accuse_nobody(tmp_path: Path) -> None:
    path = write(tmp_path, pcap([between("partial", 1, 2, flags=0x10, size=3000)] * 3))
    report = inspect(path)
    assert sum(report.offences.values()) == 0
    assert not any(report.offenders.values())
    assert "accuse nobody" in report.meaning[0]
    assert inspect(path, mtu=9000).meaning != report.meaning


def test_partial_data_of_an_otherwise_valid_sender_was_merged(tmp_path: Path) -> None:
    data = between("partial", 1, 2, flags=0x10, size=1000)
    merged = write(tmp_path, pcap([data, between("valid", 1, 2)]))
    assert sum(inspect(merged).offences.values()) == 0
    assert "GRO at a receiver" in inspect(merged).meaning[-1]
    # With a SYN that is partial as well, it is the sender's offload.
    offloaded = write(tmp_path, pcap([data, between("partial", 1, 2), between("valid", 1, 2)]))
    assert sum(inspect(offloaded).offences.values()) == 2


def test_bad_sums_name_their_flow_and_come_first(tmp_path: Path) -> None:
    said = meaning(tmp_path, between("bad", 1, 2, number=17, size=3), between("partial", 1, 2))
    assert said.startswith("1 checksum is neither right")
    assert "all in udp 10.0.0.1:5000 > 10.0.0.2:53" in said


@pytest.mark.parametrize("version", [4, 6])
def test_a_tunnel_whose_sum_counts_on_what_is_inside_is_no_fault(
    tmp_path: Path, version: int
) -> None:
    body = local(version, inside(4, 17, "partial"), inside(4, 17, "valid"))
    report = inspect(write(tmp_path, pcap([eth(ip(version, 17, body))] * 3)))
    outside = "10.0.0.1" if version == 4 else "fd00::1"
    assert report.meaning[0].startswith(f"3 packets are partial, all sent by {outside}:")
    assert "made at this sender" in report.meaning[0]
    assert len(report.meaning) == 1


def test_a_tunnel_over_ipv6_may_do_without_a_sum(tmp_path: Path) -> None:
    said = meaning(tmp_path, eth(ip(6, 17, vxlan(inside(4, 6, "valid")))))
    assert said == "Every checksum that can be judged is right."


def test_all_right_and_nothing_to_judge_are_told_apart(tmp_path: Path) -> None:
    assert "is right" in meaning(tmp_path, between("valid", 1, 2))
    assert "can be judged" in meaning(tmp_path, MACS + b"\x88\xcc" + bytes(50))
    assert "holds no frames" in meaning(tmp_path)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), 0),
        (("--fail-on", "bad"), 0),
        (("--fail-on", "partial"), 1),
        (("--fail-on", "bad,partial"), 1),
        (("--fail-on", "worse"), 2),
    ],
)
def test_the_exit_code_is_1_only_where_it_is_asked_for(
    tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    path = write(tmp_path, pcap([between("partial", 1, 2), between("valid", 2, 1)]))
    assert run(str(path), *words).exit_code == code


def test_the_page_shows_totals_flows_and_the_first_offenders(tmp_path: Path) -> None:
    frames = [between("valid", 2, 1), *[between("bad", 1, 2)] * 3]
    data = pcap(frames) + b"cut"
    done = run(str(write(tmp_path, data)), "--first", "2", "--flows", "1")
    assert done.exit_code == 0
    text = done.output
    assert "partial evidence: cut within the record" in text
    assert "4 frames  1970-01-01 00:16:40.000000000 to" in text
    assert "75.0%" in text
    assert "1 of 2 flows" in text
    assert "tcp 10.0.0.1:40000 > 10.0.0.2:22" in text
    offenders = text[text.index("the first bad packets") :]
    assert offenders.count("SYN") == 2


def test_json_holds_what_a_script_wants(tmp_path: Path) -> None:
    done = run(str(write(tmp_path, pcap([between("bad", 1, 2)]))), "--json")
    told = json.loads(done.output)
    assert (told["frames"], told["states"]["bad"], told["complete"]) == (1, 1, True)
    (offender,) = told["offenders"]["bad"]
    assert {offender["field"], offender["valid"], offender["partial"]} > {offender["field"]}
    assert told["flows"][0]["states"]["bad"] == 1


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as file:
        file.write(pcap([between("valid", 1, 2)]))
    with os.fdopen(reading, "rb") as file:
        monkeypatch.setattr("sys.stdin", file)
        assert inspect(None).frames == 1
