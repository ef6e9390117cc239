"""A matrix of real labs on real workers, with faults: its results are those of a run without any.

Workers are network namespaces of their own, with addresses and a real sshd. While it runs, one
worker is killed with all that is on it, the link of another is cut for a minute, and the process
that runs the matrix is killed and started again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from .sshd import Cluster, cluster, inside, wait_for_end

CELL = Path(__file__).with_name("cell.py")
SIZES = 4
TARGETS = 3


def _command(made: Cluster, cells: int, output: Path) -> list[str]:
    hosts = [word for number, _ in enumerate(made.machines, 1) for word in ("--ssh", f"w{number}")]
    program = f"{sys.executable} -m labctl"
    return inside(
        made.control,
        [
            sys.executable, "-P", "-m", "labctl", "matrix", f"{CELL}::cell",
            "--axis", "to=ipv4,ipv6,nobody", "--axis", "size=8,56,1000,1400",
            "--repeat", str(cells // (SIZES * TARGETS)), "--timeout", "20m", *hosts,
            "--remote", program, "--ssh-config", str(made.config), "--output", str(output),
            "--json-lines",
        ],
    )  # fmt: skip


class _Watched:
    """A run of the matrix, and what it has told so far."""

    def __init__(self, words: list[str], log: Path) -> None:
        self.events: list[dict[str, object]] = []
        self.child = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self._log = log
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stdout
        with self._log.open("ab") as log:
            for line in self.child.stdout:
                log.write(line)
                log.flush()
                with contextlib.suppress(ValueError):
                    self.events.append(json.loads(line))

    def ended(self) -> int:
        """Return how many tries have ended."""
        return sum(one["event"] == "end" for one in self.events)

    def wait_for(self, count: int) -> bool:
        """Wait until so many tries have ended; say whether the matrix still runs."""
        while self.child.poll() is None and self.ended() < count:
            time.sleep(0.2)
        return self.child.poll() is None

    def finish(self) -> int:
        status = self.child.wait()
        self._reader.join()
        return status


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix proof")
    parser.add_argument("--cells", type=int, default=60, help="a multiple of 12")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--cut", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--quiet", action="store_true", help="without faults")
    asked = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="lm-", dir="/tmp") as top:
        folder = Path(top)
        with cluster(folder, asked.workers) as made:
            return _prove(made, folder, asked)


def _prove(made: Cluster, folder: Path, asked: argparse.Namespace) -> int:
    output = folder / "out"
    words = _command(made, asked.cells, output)
    begun = time.monotonic()
    log = folder / "events"
    first = _Watched(words, log)
    if not asked.quiet:
        _strike(first, made, asked)
        first.child.kill()  # whoever runs the matrix
        first.finish()
        print(f"{time.monotonic() - begun:.0f} s: killed what runs the matrix", flush=True)
        first = _Watched(words, log)
    status = first.finish()
    seconds = time.monotonic() - begun
    left = [one.name for one in made.machines if not wait_for_end(one, 60)]
    return _judge(output, asked.cells, seconds, status, left)


def _strike(run: _Watched, made: Cluster, asked: argparse.Namespace) -> None:
    begun = time.monotonic()
    killed, cut = made.machines[0], made.machines[1]
    run.wait_for(asked.cells // 6)
    killed.kill()
    print(f"{time.monotonic() - begun:.0f} s: killed all on {killed.name}", flush=True)
    run.wait_for(asked.cells // 4)
    cut.link(up=False)
    print(f"{time.monotonic() - begun:.0f} s: cut {cut.name} off", flush=True)
    time.sleep(asked.cut)
    cut.link(up=True)
    killed.start(made.key)
    print(f"{time.monotonic() - begun:.0f} s: both are back", flush=True)
    run.wait_for(asked.cells // 2)


def _judge(output: Path, cells: int, seconds: float, status: int, left: list[str]) -> int:
    """Hold the results against those of a run without faults, which are known."""
    data = json.loads((output / "matrix.json").read_text())
    wrong, attempts = [], 0
    broken: dict[str, int] = {}
    for outcome in data["outcomes"]:
        labels = outcome["cell"]["labels"]
        tries = outcome["attempts"]
        attempts += len(tries)
        for one in tries:
            if one["how"] != "ended":
                broken[one["how"]] = broken.get(one["how"], 0) + 1
        told = [one for one in tries if one["how"] == "ended" and one["run"]]
        expected = "fail" if labels["to"] == "nobody" else "pass"
        if len(told) != 1 or told[0]["verdict"] != expected or tries[-1] is not told[0]:
            wrong.append((labels, outcome["cell"]["repeat"], tries))
    runs = len(list((output / "runs").iterdir()))
    print(
        f"{len(data['outcomes'])} cells in {seconds:.0f} s, {attempts} attempts "
        f"(broke off: {broken or 'none'}), {runs} runs, exit status {status}"
    )
    for one in wrong:
        print("wrong:", one)
    for name in left:
        print(f"labs are left on {name}")
    return int(bool(wrong or left or len(data["outcomes"]) != cells or status != 1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
