"""A few rounds of `make faults`; a whole campaign has a thousand kills (docs/reliability.md)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from live import COMMAND_SECONDS

pytestmark = pytest.mark.integration

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("first", [6, 14], ids=["up, down", "experiment, trace"])
def test_random_kills_leave_nothing_and_the_next_up_works(
    first: int, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    words = ["--seed=1", f"--first={first}", "--kills=2", f"--folder={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", *words, f"--accel={pytestconfig.option.accel}"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2/2" in done.stdout
