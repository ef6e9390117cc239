"""Say which tests were skipped and why; fail where a reason is not one of the known ones.

A suite that skips what it cannot do stays green on a machine that can do nothing: so a skip is
allowed only for a reason that stands in known-skips.txt.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from junitparser import JUnitXml, Skipped, TestCase, TestSuite


def skipped(report: JUnitXml) -> list[tuple[str, str]]:
    """Return name and reason of each skipped test."""
    found = []
    for suite in report:
        cases = suite if isinstance(suite, TestSuite) else [suite]
        for case in cases:
            if not isinstance(case, TestCase):
                continue
            for result in case.result:
                if isinstance(result, Skipped):
                    found.append((f"{case.classname}::{case.name}", result.message or "no reason"))
    return found


def main(file: str) -> int:
    """Print the skips of the JUnit file; return 1 if one is unknown or nothing was run."""
    try:
        report = JUnitXml.fromfile(file)
    except FileNotFoundError:
        print(f"skips: {file} is not there: the tests did not get to their end")
        return 1
    lines = (Path(__file__).parent / "known-skips.txt").read_text().splitlines()
    known = [re.compile(line) for line in lines if line and not line.startswith("#")]
    found = skipped(report)
    unknown = 0
    for name, reason in found:
        allowed = any(pattern.fullmatch(reason) for pattern in known)
        unknown += not allowed
        print(f"skips: {'known' if allowed else 'UNKNOWN'}: {name}: {reason}")
    total = sum(suite.tests for suite in report)
    print(f"skips: {len(found)} of {total} tests skipped, {unknown} without a known reason")
    return 1 if unknown or total == len(found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
