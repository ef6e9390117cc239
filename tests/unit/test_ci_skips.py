"""What CI makes of skipped tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "skips.py"
PASSED = '<testcase classname="a" name="b" time="0"/>'
SKIPPED = '<testcase classname="a" name="c"><skipped message="no /dev/kvm">x</skipped></testcase>'


def classify(
    folder: Path, *cases: str, known: str = "# none\n"
) -> subprocess.CompletedProcess[str]:
    shutil.copy(SCRIPT, folder)
    (folder / "known-skips.txt").write_text(known)
    suite = f'<testsuite name="pytest" tests="{len(cases)}">{"".join(cases)}</testsuite>'
    (folder / "tests.xml").write_text(f"<testsuites>{suite}</testsuites>")
    return subprocess.run(
        [sys.executable, folder / "skips.py", folder / "tests.xml"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_suite_without_skips_is_good(tmp_path: Path) -> None:
    assert classify(tmp_path, PASSED).returncode == 0


def test_an_unknown_reason_fails_and_is_shown(tmp_path: Path) -> None:
    done = classify(tmp_path, PASSED, SKIPPED, known="no\n# no /dev/kvm\n")
    assert done.returncode == 1
    assert "UNKNOWN: a::c: no /dev/kvm" in done.stdout


def test_a_known_reason_is_counted(tmp_path: Path) -> None:
    done = classify(tmp_path, PASSED, SKIPPED, known="no /dev/\\w+\n")
    assert done.returncode == 0
    assert "1 of 2 tests skipped" in done.stdout


@pytest.mark.parametrize("cases", [(), (SKIPPED,)])
def test_a_suite_that_ran_nothing_is_no_success(tmp_path: Path, cases: tuple[str, ...]) -> None:
    assert classify(tmp_path, *cases, known="no /dev/kvm\n").returncode == 1


def test_a_missing_report_is_no_success(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "none.xml"], capture_output=True, check=False
    )
    assert done.returncode == 1
