"""`labctl inspect` as a command of its own, and beside tshark where there is one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LABCTL = Path(sys.executable).with_name("labctl")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "frames.pcap"
    make = "import sys, pathlib; from tests.bench.inspect_file import write; "
    make += "write(pathlib.Path(sys.argv[1]), 30_000)"
    subprocess.run([sys.executable, "-c", make, str(path)], cwd=ROOT, check=True)
    return path


@pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")
def test_tshark_says_the_same_of_every_packet_or_the_difference_is_explained(file: Path) -> None:
    compare = """if True:
        import sys, json, pathlib
        from tests.bench.inspect import EQUAL, EXPLAINED, compare, timed, tshark
        path = pathlib.Path(sys.argv[1])
        theirs = path.with_suffix(".txt")
        timed(tshark(path, "-oip.defragment:FALSE"), theirs)
        pairs = compare(path, theirs)
        print(json.dumps([[list(pair), count, pair in EQUAL, pair in EXPLAINED]
                          for pair, count in pairs.items()]))
    """
    done = subprocess.run(
        [sys.executable, "-c", compare, str(file)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    pairs = json.loads(done.stdout)
    assert sum(count for _, count, _, _ in pairs) == 30_000
    assert not [(pair, count) for pair, count, equal, explained in pairs if not equal | explained]
    of_partial = {pair[1] for pair, *_ in pairs if pair[0] == "partial"}
    assert of_partial == {"good"} or "good" not in of_partial, "one tshark tells them one way"
    same = {pair[0] for pair, _, equal, _ in pairs if equal}
    assert {"valid", "bad", "absent"} <= same


def test_memory_does_not_grow_with_the_file(file: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.pcap"
    data = file.read_bytes()
    with large.open("wb") as out:
        out.write(data)
        for _ in range(9):
            out.write(data[24:])
    peaks = []
    for path in (file, large):
        # What the command itself holds; a child's peak is that of the largest so far.
        measure = "import resource, subprocess, sys; "
        measure += "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        measure += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        done = subprocess.run(
            [sys.executable, "-c", measure, str(LABCTL), "inspect", str(path)],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks.append(int(done.stdout))
    assert large.stat().st_size > 150 << 20
    assert peaks[1] < peaks[0] + (16 << 10)


def test_a_pipe_is_read_and_a_wrong_file_is_one_line(file: Path, tmp_path: Path) -> None:
    with file.open("rb") as data:
        done = subprocess.run(
            [LABCTL, "inspect", "-", "--json"], stdin=data, capture_output=True, check=True
        )
    assert json.loads(done.stdout)["frames"] == 30_000
    wrong = tmp_path / "wrong.pcap"
    wrong.write_bytes(b"PK\3\4" + bytes(100))
    failed = subprocess.run([LABCTL, "inspect", wrong], capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert len(failed.stderr.strip().splitlines()) == 2  # what is wrong, and what to do
    assert "Traceback" not in failed.stderr
