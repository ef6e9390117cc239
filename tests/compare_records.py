"""`python -m tests.compare_records BEFORE AFTER`: whether two records say the same.

For who changes the code of an experiment: BEFORE and AFTER are folders of runs of it. Compared are,
by arm and check, the verdict, what was expected, what was observed, and the state at every hop that
its evidence tells of. Numbers, such as counts, and the order of arms and checks may differ. Ends
with exit status 1 where something else does, a line each.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from labctl.results.model import Check, Run

_STATE = re.compile(r"(?P<hop>\S+): (?P<state>[^(]+?)(?: \((?:field|pseudo-header|full).*\))?")
_KNOWN = re.compile(r"(?:partial|valid|bad|absent|unknown|not seen)\b")
_NUMBER = re.compile(r"\b\d+(?:\.\d+)?\b")

Key = tuple[str, str]
"""An arm and a check, which is numbered where its name is used again."""
Said = tuple[str, str, str, tuple[str, ...]]
"""Verdict, expected, observed, and a state a hop."""


def states(check: Check) -> tuple[str, ...]:
    """Return `HOP: STATE` for each line of a check's evidence that tells of one."""
    found = []
    for line in check.evidence:
        match = _STATE.fullmatch(line)
        if match and _KNOWN.match(match["state"]):
            found.append(f"{match['hop']}: {match['state']}")
    return tuple(found)


def said(run: Run) -> dict[Key, Said]:
    """Return what each check of a run said, without what may differ from run to run."""
    found: dict[Key, Said] = {}
    for arm in run.arms:
        used: Counter[str] = Counter()
        for check in arm.checks:
            used[check.name] += 1
            name = check.name if used[check.name] == 1 else f"{check.name} #{used[check.name]}"
            observed = _NUMBER.sub("N", check.observed)
            found[arm.name, name] = (check.verdict, check.expected, observed, states(check))
    return found


def differences(before: Run, after: Run) -> list[str]:
    """Return a line for all that differs between two runs of one experiment."""
    lines = []
    if before.experiment != after.experiment:
        lines.append(f"experiment: {before.experiment} → {after.experiment}")
    if before.verdict is not after.verdict:
        lines.append(f"verdict: {before.verdict} → {after.verdict}")
    a, b = said(before), said(after)
    for key in dict.fromkeys((*a, *b)):
        where = f"{key[0]}: {key[1]}"
        if key not in b:
            lines.append(f"{where}: is gone")
        elif key not in a:
            lines.append(f"{where}: is new")
        else:
            words = ("verdict", "expected", "observed", "states")
            for word, old, new in zip(words, a[key], b[key], strict=True):
                if old != new:
                    lines.append(f"{where}: {word}: {old} → {new}")
    return lines


def read(folder: Path) -> Run:
    """Read the record in a run's folder."""
    return Run.from_json(json.loads((folder / "result.json").read_text(encoding="utf-8")))


def main(words: Sequence[str]) -> int:
    """Compare two folders and print what differs."""
    if len(words) != 2:
        print("usage: python -m tests.compare_records BEFORE AFTER", file=sys.stderr)
        return 2
    before, after = (read(Path(word)) for word in words)
    found = differences(before, after)
    for line in found:
        print(line)
    checks = sum(len(arm.checks) for arm in after.arms)
    print(f"{after.experiment}: {checks} checks, {len(found)} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
