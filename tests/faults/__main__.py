"""`python -m tests.faults`: kill labctl and what belongs to it at random moments.

Ends with exit status 1 where something was found. docs/reliability.md tells what was.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .journal import Journal

TESTS = Path(__file__).parents[1]
TOP = TESTS.parent / "build" / "faults"
GOAL = 1000


def main(words: Sequence[str]) -> int:
    """Play the rounds asked for and print their table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--kills", type=int, default=GOAL, help=f"how many (default: {GOAL})")
    parser.add_argument("--seed", type=int, help="from which every round follows")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first round")
    parser.add_argument("--only", metavar="VERB", help="only rounds of this verb")
    parser.add_argument("--folder", type=Path, default=TOP, metavar="DIR", help="where all is kept")
    parser.add_argument("--short", action="store_true", help="only shortages, counted as kills")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="at most")
    parser.add_argument("--accel", choices=("auto", "require", "off"), default="auto")
    parser.add_argument("--resume", action="store_true", help="go on where it ended last")
    parser.add_argument("--table", action="store_true", help="only tell how far it is")
    asked = parser.parse_args(words)
    sys.path[:0] = [str(TESTS), str(TESTS / "integration")]
    from .journal import Journal, table

    journal = Journal(asked.folder)
    if not (asked.resume or asked.table):
        journal.clear()
    if not asked.table:
        _in_a_child(lambda: _campaign(journal, asked))
    outcomes = journal.outcomes()
    print(table(outcomes))
    for one in outcomes:
        for finding in one.findings:
            print(f"seed {one.seed} round {one.number} ({one.verb}): {finding}")
    return int(any(one.findings for one in outcomes))


def _in_a_child(work: Callable[[], None]) -> None:
    """Do the work in a child, while this process collects whatever is orphaned below it.

    A process namespace does not end before all of its processes have been waited for.
    """
    from live import set_subreaper

    set_subreaper(True)
    child = os.fork()
    if child == 0:
        code = 3
        # A shell lets what it starts in the background ignore them, and labctl would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            work()
            code = 0
        except KeyboardInterrupt:
            print("faults: stopped; --resume goes on", file=sys.stderr)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the child
    while True:
        ended, status = os.wait()
        if ended == child:
            break
    if status:
        sys.exit(os.waitstatus_to_exitcode(status) or 3)


def _campaign(journal: Journal, asked: argparse.Namespace) -> None:
    from live import Place

    from .disk import Disk
    from .plan import plan
    from .processes import Processes
    from .stage import Stage
    from .strike import Scarce

    before = journal.outcomes()
    seed, number = asked.seed, asked.first
    if before:
        seed, number = before[-1].seed, before[-1].number + 1
    elif seed is None:
        seed = random.randrange(2**31)
    kills = sum(one.is_kill for one in before)
    end = time.monotonic() + asked.minutes * 60
    with tempfile.TemporaryDirectory(prefix="lt", dir="/tmp") as folder:
        disk = Disk(Path(folder) / "d")
        where = Place(disk.folder, asked.accel, logs=Path(folder))
        stage = Stage(where, Scarce(disk, Processes()), journal.usual())
        try:
            while kills < asked.kills and time.monotonic() < end:
                one = plan(seed, number)
                number += 1
                if asked.only not in (None, one.verb) or (asked.short and one.is_kill):
                    continue
                outcome = stage.play(seed, one)
                journal.add(outcome)
                journal.set_usual(stage.usual)
                kills += outcome.is_kill or asked.short
                told = "; ".join(outcome.findings) or ("ok" if outcome.struck else "too late")
                print(f"{kills}/{asked.kills} seed {seed} round {one}: {told}", flush=True)
        finally:
            stage.close()
            disk.remove()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
