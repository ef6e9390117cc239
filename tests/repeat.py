"""`python -m tests.repeat NAME`: run an experiment many times; every verdict must be the same.

In every other run the machine is busy: two loops that compute, and a disk that is written to. Ends
with exit status 1 where a verdict, of a run or of one of its checks, was another.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
TOP = CHECKOUT / "build" / "repeat"
LABCTL = Path(sys.executable).with_name("labctl")
SECONDS = 3600
LOOPS = 2
LOOP = "while True: pass"
WRITER = """
import os, sys
block = bytes(1 << 20)
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        file.seek(0)
        for _ in range(64):
            file.write(block)
        os.fsync(file.fileno())
"""


def main(words: Sequence[str]) -> int:
    """Run the experiment as often as asked and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.repeat")
    parser.add_argument("experiment")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=TOP, metavar="DIR", help="where all is kept")
    parser.add_argument("--resume", action="store_true", help="go on where it ended last")
    parser.add_argument("--table", action="store_true", help="only tell how far it is")
    asked = parser.parse_args(words)
    asked.folder.mkdir(parents=True, exist_ok=True)
    kept = asked.folder / f"{asked.experiment}.jsonl"
    if not (asked.resume or asked.table):
        kept.unlink(missing_ok=True)
    with contextlib.suppress(KeyboardInterrupt):
        for number in range(len(_runs(kept)), 0 if asked.table else asked.times):
            run = _run(asked.experiment, busy=number % 2 == 1)
            with kept.open("a") as file:
                file.write(json.dumps(run) + "\n")
            print(f"{number + 1}/{asked.times} {run['busy']}: {run['verdict']}", flush=True)
    return _table(asked.experiment, _runs(kept))


def _run(experiment: str, *, busy: bool) -> dict[str, object]:
    with _load() if busy else contextlib.nullcontext(), tempfile.TemporaryDirectory() as results:
        begun = time.monotonic()
        done = subprocess.run(
            [LABCTL, "experiment", experiment, "--json", "--results", results],
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        seconds = time.monotonic() - begun
    try:
        told = json.loads(done.stdout)
    except ValueError:
        told = {"verdict": f"exit {done.returncode}: {done.stderr.decode()[-500:]}", "arms": []}
    checks = {
        f"{arm['name']}: {check['name']}": check["verdict"]
        for arm in told["arms"]
        for check in arm["checks"]
    }
    return {
        "busy": "busy" if busy else "quiet",
        "verdict": told["verdict"],
        "checks": checks,
        "seconds": round(seconds, 1),
        "load": os.getloadavg()[0],
    }


@contextlib.contextmanager
def _load() -> Iterator[None]:
    """Let processors and a disk be busy for the length of the `with` block."""
    with tempfile.TemporaryDirectory(dir=CHECKOUT) as folder, contextlib.ExitStack() as stack:
        programs = [[LOOP]] * LOOPS + [[WRITER, f"{folder}/file"]]
        for words in programs:
            child = stack.enter_context(subprocess.Popen([sys.executable, "-c", *words]))
            stack.callback(child.kill)
        yield


def _runs(kept: Path) -> list[dict[str, object]]:
    try:
        return [json.loads(line) for line in kept.read_text().splitlines()]
    except FileNotFoundError:
        return []


def _table(experiment: str, runs: list[dict[str, object]]) -> int:
    for state in ("quiet", "busy"):
        some = [run for run in runs if run["busy"] == state]
        verdicts = Counter(str(run["verdict"]) for run in some)
        took = sorted(float(str(run["seconds"])) for run in some)
        span = f"{took[0]:.0f} to {took[-1]:.0f} s" if took else ""
        print(f"{experiment:16} {state:6} {len(some):4} runs: {dict(verdicts)}  {span}")
    ways = Counter(json.dumps([run["verdict"], run["checks"]]) for run in runs)
    print(
        f"{experiment:16} all    {len(runs):4} runs, {len(ways)} different outcomes of all checks"
    )
    return int(len(ways) != 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
