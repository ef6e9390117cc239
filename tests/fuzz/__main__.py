"""`python -m tests.fuzz [TARGET…]`: try inputs by structure and by coverage, tell what was found.

Ends with exit status 1 where something was found. docs/reliability.md tells what was.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from .findings import keep
from .scratch import GIVEN, MEMORY, PREFIX
from .state import FORMS, Place, State
from .target import Finding, Target

TESTS = Path(__file__).parents[1]
TOP = TESTS.parent / "build" / "fuzz"
SHARE = {"structure": 0.5, "coverage": 0.5}
"""Of a target's inputs."""
MOST_CRASHES = 20
"""How often a process that ended before its time is followed by another."""
_EDGES = re.compile(r"cov: (\d+)")


def main(words: list[str]) -> int:
    """Run the campaigns asked for and print their table; return the exit status."""
    sys.path[:0] = [str(TESTS), str(TESTS / "unit")]
    from .targets import TARGETS  # only from here on what they import can be found

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--runs", type=int, help="inputs a target (default: its goal)")
    parser.add_argument("--seed", type=int, help="by which a run can be had again")
    parser.add_argument("--corpus", type=Path, default=TOP, metavar="DIR", help="where all is kept")
    parser.add_argument("--resume", action="store_true", help="go on where it ended last")
    parser.add_argument("--table", action="store_true", help="only tell how far it is")
    asked = parser.parse_args(words)
    if unknown := sorted(set(asked.targets) - set(TARGETS)):
        parser.error(f"there is no target {unknown[0]}; there are: {', '.join(TARGETS)}")
    chosen = [TARGETS[name] for name in asked.targets or TARGETS]
    top = asked.corpus.absolute()
    seed = asked.seed if asked.seed is not None else random.randrange(2**31)
    try:
        for target in chosen if not asked.table else ():
            _campaign(target, top, asked.runs or target.goal, seed, resume=asked.resume)
    except KeyboardInterrupt:
        print("fuzz: stopped; --resume goes on", file=sys.stderr)
    return _table(chosen, top)


def _campaign(target: Target, top: Path, runs: int, seed: int, *, resume: bool) -> None:
    place = Place(top, target.name)
    if not resume:
        place.clear()
    for form in FORMS:
        if form == "coverage" and (lacking := _no_atheris()):
            print(f"fuzz: {target.name} by coverage: skipped: {lacking}")
            continue
        wanted = round(runs * SHARE[form])
        for _ in range(MOST_CRASHES):
            state = place.load(form)
            if state.inputs >= wanted:
                break
            # Each run of a campaign tries others than those before it.
            _run(target, form, place, state, wanted - state.inputs, seed + state.inputs)


def _no_atheris() -> str:
    try:
        import atheris  # noqa: F401
    except ImportError:
        return f"atheris is not installed ({sys.platform}, Python {sys.version.split()[0]})"
    return ""


def _run(target: Target, form: str, place: Place, state: State, runs: int, seed: int) -> None:
    """Let a process of its own fuzz; what ends it is a finding too."""
    place.make(form)
    state.seeds.append(seed)
    place.save(form, state)
    worker = [
        sys.executable, "-m", f"{__package__}.worker", target.name, form, str(place.folder.parent),
        f"--runs={runs}", f"--seed={seed}",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONPATH": f"{TESTS.parent}:{TESTS}:{TESTS / 'unit'}",
        "OPENBLAS_NUM_THREADS": "1",  # each has megabytes of its own
    }
    log = place.folder / f"{form}.log"
    scratch = tempfile.TemporaryDirectory(prefix=PREFIX, dir=MEMORY, ignore_cleanup_errors=True)
    with log.open("ab") as output, scratch as environment[GIVEN]:
        begun = output.tell()
        child = subprocess.Popen(worker, env=environment, stdout=output, stderr=output)
        try:
            code = child.wait()
        finally:
            child.terminate()
            child.wait()
    said = log.read_bytes()[begun:].decode(errors="replace")
    after = place.load(form)
    after.edges = max([after.edges, *(int(found) for found in _EDGES.findall(said))])
    place.save(form, after)
    for line in said.splitlines():
        if line.startswith("FOUND "):
            print(f"fuzz: {line.removeprefix('FOUND ')}")
    if after.inputs < state.inputs + runs:
        from .worker import Journal

        data = Journal.last(place.folder / "trying")
        text = "\n".join(said.splitlines()[-40:])
        # It cannot be made smaller here: it would end this process as well.
        keep(place.findings, target, data, Finding(f"the process ended with {code}", text), False)
        print(f"fuzz: {target.name} by {form}: the process ended with {code}, see {log}")


def _table(chosen: list[Target], top: Path) -> int:
    print(f"\n{'target':12} {'form':10} {'inputs':>9} {'seconds':>8} {'edges':>6} found  seeds")
    faults = 0
    for target in chosen:
        place = Place(top, target.name)
        found = place.found()
        faults += found
        for form in FORMS:
            state = place.load(form)
            seeds = " ".join(map(str, state.seeds))
            print(
                f"{target.name:12} {form:10} {state.inputs:9,} {state.seconds:8.0f} "
                f"{state.edges or '-':>6} {found:5}  {seeds}"
            )
    if faults:
        print(f"\nsee {top}/TARGET/findings/*/what; `smallest` beside it is the input")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
