"""Rows of the catalogue with real guests: one that breaks, a control, and what is left of a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from labctl import wait_until
from labctl.experiments.catalogue import rows, run
from labctl.results.catalogue import read_row
from labctl.results.model import Verdict

pytestmark = pytest.mark.integration


def test_a_row_that_breaks_names_the_place_and_what_mends_it(tmp_path: Path) -> None:
    found = run.run_row(rows.find("packet-wire"), tmp_path)
    assert found.verdict is Verdict.PASS, found.differences
    assert found == read_row(tmp_path, "packet-wire")
    assert found.diagnosed
    assert found.diagnosed.where == found.place
    assert any(one.works for one in found.diagnosed.remedies)
    assert (tmp_path / "records" / found.record / "result.json").is_file()


def test_a_closed_port_is_not_taken_for_lost_metadata(tmp_path: Path) -> None:
    found = run.run_row(rows.find("closed-port"), tmp_path)
    assert found.verdict is Verdict.PASS, found.differences
    assert found.diagnosed
    assert found.diagnosed.reason == "closed port"


def test_a_run_that_is_killed_leaves_no_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as short:  # sockets have short names
        labs = Path(short) / "labctl"
        monkeypatch.setenv("LABCTL_RUNTIME_DIR", short)
        words = ["catalogue", "run", "bridge", "--output", str(tmp_path / "out")]
        parent = subprocess.Popen([sys.executable, "-m", "labctl", *words])
        wait_until("a lab", lambda: list(labs.glob("catalogue-*/lab.state")), within=300)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        wait_until("the lab to be gone", lambda: not list(labs.glob("catalogue-*")), within=120)
    # The control: it was ended, and did not just come to its end by itself meanwhile.
    assert read_row(tmp_path / "out", "bridge") is None
