"""`labctl capture` on a running lab: into Wireshark's own programs, into a file, and its ends."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import LABCTL, SECONDS, Place, descendants, pids, place, until, words_of
from test_namespace_nodes import HOP

from labctl.capture import pcapng
from labctl.packet.checksum import Metadata

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Field type should not be:DeprecationWarning"),
]
SEND = "import socket; socket.socket(2, 2).sendto(b'word', ('10.0.2.2', 4007))"
READY = "Ctrl-C ends it"


@pytest.fixture(scope="module")
def there() -> Iterator[Place]:
    with place("off") as where:
        where.ok("up", str(where.write("hop.yaml", HOP.replace("KIND", "raw"))))
        yield where


def send(there: Place) -> None:
    there.ok("exec", "ns1", "--", "python3", "-c", SEND)


def captures(there: Place) -> list[Path]:
    return list((there.runtime / "hop" / "captures").glob("live-*"))


def observers() -> set[int]:
    """The processes of this host that observe r1 in some lab."""
    return {pid for pid in pids() if "observe.py --hop r1" in words_of(pid)}


def test_lines_show_one_packet_at_each_hop_and_where_its_metadata_went(there: Place) -> None:
    words = ["capture", "--path", "ns1", "ns2", "-f", "udp port 4007", "-c", "8", "--json"]
    with there.start(*words, output=True) as running:
        running.reach("being ready", lambda: running.said(READY))
        send(there)
        assert running.wait() == 0
        said = running.log.read_text().splitlines()
    frames = [json.loads(line) for line in said if line.startswith("{")]
    assert len({one["hop"] for one in frames}) == len(frames) == 8
    assert len({one["packet"] for one in frames}) == 1
    known = {one["hop"]: one["metadata"] for one in frames}
    assert (known["r1:eth0"], known["r1:eth1"]) == ("needs_csum", "none")
    assert captures(there) == []


@pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")
def test_wireshark_reads_it_as_it_comes_with_metadata_as_columns(there: Place) -> None:
    script = there.ok("capture", "--lua").stdout.strip()
    fields = ("labctl.hop", "labctl.state", "labctl.metadata", "labctl.packet")
    words = ["tshark", "-l", "-i", "-", "-c", "2", "-X", f"lua_script:{script}", "-T", "fields"]
    words += [word for field in fields for word in ("-e", field)]
    live = [LABCTL, "capture", "r1:*", "-f", "udp port 4007", "-w", "-"]
    with (
        subprocess.Popen(
            live, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=there.env
        ) as ours,
        subprocess.Popen(words, stdin=ours.stdout, stdout=subprocess.PIPE, text=True) as theirs,
    ):
        assert ours.stdout
        assert ours.stderr
        assert theirs.stdout
        ours.stdout.close()
        assert READY.encode() in ours.stderr.readline()
        send(there)
        rows = [line.split("\t") for line in theirs.stdout.read().splitlines()]
        assert theirs.wait(SECONDS) == 0
        assert ours.wait(SECONDS) == 141  # its reader has ended, and nothing more need come
    assert [row[:3] for row in rows] == [
        ["r1:eth0", "partial", "needs_csum"],
        ["r1:eth1", "partial", "none"],
    ]
    assert rows[0][3] == rows[1][3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_capture_leaves_a_whole_file(
    there: Place, tmp_path: Path, number: signal.Signals
) -> None:
    file = tmp_path / "seen.pcapng"
    with there.start("capture", "r1", "-w", str(file)) as running:
        running.reach("being ready", lambda: running.said(READY))
        send(there)
        until("a frame in the file", lambda: b"word" in file.read_bytes())
        running.child.send_signal(number)
        assert running.wait() == 0
    evidence = pcapng.read(file)
    assert len(evidence.hops) == 4
    assert all(hop.complete for hop in evidence.hops)
    seen = [one for one in evidence["r1:eth0"].observations if one.judgement.kind == "UDP"]
    assert [one.judgement.metadata for one in seen] == [Metadata.NEEDS_CSUM]
    assert captures(there) == []


def test_a_killed_capture_leaves_no_process_and_its_folder_goes_with_the_next(
    there: Place, tmp_path: Path
) -> None:
    with there.start("capture", "r1", "-w", str(tmp_path / "x")) as running:
        running.reach("being ready", lambda: running.said(READY))
        ours = observers() & descendants(running.child.pid)
        running.child.kill()
    assert len(ours) >= 4
    assert pcapng.read(tmp_path / "x").hops
    until("no observer", lambda: not ours & observers())
    assert len(captures(there)) == 1
    there.ok("capture", "r1:eth0", "--duration", "0.1")
    assert captures(there) == []


def test_what_is_wrong_is_told_before_anything_starts(there: Place) -> None:
    for words in (["nope"], [], ["r1", "-f", "tcp prot 2"], ["r1", "-w", "/nowhere/x"]):
        done = there.run("capture", *words)
        assert done.status == 2, done
        assert READY not in done.stderr
    assert captures(there) == []


def test_a_lab_that_goes_down_ends_a_capture_with_what_was_seen(tmp_path: Path) -> None:
    with place("off") as where:
        where.ok("up", str(where.write("hop.yaml", HOP.replace("KIND", "raw"))))
        with where.start("capture", "r1", "-w", str(tmp_path / "x")) as running:
            running.reach("being ready", lambda: running.said(READY))
            send(where)
            until("a frame in the file", lambda: b"word" in (tmp_path / "x").read_bytes())
            where.ok("down", "hop")
            assert running.wait() == 3
            assert "went down" in running.log.read_text()
        assert pcapng.read(tmp_path / "x").hops
