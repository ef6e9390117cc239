"""Matrices of real labs: over a real sshd, interrupted here, and on a real dask scheduler."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labctl import wait_until
from labctl.results import matrix
from labctl.results.model import Verdict
from matrix.sshd import SSHD, cluster, wait_for_end

pytestmark = pytest.mark.integration
CELL = Path(__file__).parents[1] / "matrix" / "cell.py"
LABCTL = [sys.executable, "-P", "-m", "labctl"]


@pytest.fixture
def short() -> Iterator[Path]:
    """Return a folder with a path that sockets of labs may lie below."""
    with tempfile.TemporaryDirectory(prefix="lm", dir="/tmp") as folder:
        yield Path(folder)


def words(output: Path, *more: str) -> list[str]:
    axes = ["--axis", "to=ipv4,nobody", "--axis", "size=8"]
    return [*LABCTL, "matrix", f"{CELL}::cell", *axes, "--output", str(output), *more]


def verdicts(output: Path) -> dict[str, Verdict | None]:
    return {one.cell.labels["to"]: one.verdict for one in matrix.read(output).outcomes}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.skipif(not Path(SSHD).exists(), reason="openssh-server is not installed")
def test_cells_run_over_a_real_sshd_and_their_runs_come_home(short: Path) -> None:
    output = short / "out"
    with cluster(short / "c", 1) as made:
        more = ["--ssh", "w1", "--ssh-config", str(made.config)]
        more += ["--remote", f"{sys.executable} -P -m labctl", "--json-lines"]
        command = ["nsenter", f"--net=/run/netns/{made.control}", "--", *words(output, *more)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr + done.stdout
        assert wait_for_end(made.machines[0], 60)
    assert verdicts(output) == {"ipv4": Verdict.PASS, "nobody": Verdict.FAIL}
    events: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["place"] for one in events if one["event"] == "end"} == {"w1"}
    assert all((output / "runs" / one["run"]).is_dir() for one in events if one.get("run"))


def test_who_interrupts_a_matrix_leaves_nothing_and_goes_on(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(short))
    output = short / "out"
    started = subprocess.Popen(
        words(output, "--local", "1", "--json-lines"), stdout=subprocess.PIPE, text=True
    )
    assert started.stdout
    for line in started.stdout:
        if json.loads(line)["event"] == "start":
            break
    labs = short / "labctl"
    wait_until("a lab", lambda: list(labs.glob("cell-*/lab.state")), within=300)
    started.send_signal(signal.SIGINT)
    started.stdout.read()
    assert started.wait() == 130
    assert not list(labs.glob("cell-*"))
    assert not list(output.glob(".work-*"))
    assert [one.how for one in matrix.read_attempts(output)] == ["stopped"]
    done = subprocess.run(words(output), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert verdicts(output) == {"ipv4": Verdict.PASS, "nobody": Verdict.FAIL}


@pytest.fixture
def scheduler() -> Iterator[str]:
    """Start dask's own scheduler on a free port of the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-dashboard",
        "--dashboard-address",
        "127.0.0.1:0",
    ]
    started = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", *address],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"tcp://127.0.0.1:{port}"
    finally:
        started.kill()
        started.wait()


def test_cells_run_on_a_worker_of_a_real_scheduler(
    short: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(short))
    output = short / "out"
    worker = subprocess.Popen([*LABCTL, "matrix-worker", scheduler], stderr=subprocess.DEVNULL)
    try:
        more = ("--scheduler", scheduler)
        done = subprocess.run(words(output, *more), capture_output=True, text=True, check=False)
    finally:
        worker.terminate()
        worker.wait()
    assert done.returncode == 1, done.stderr + done.stdout
    assert verdicts(output) == {"ipv4": Verdict.PASS, "nobody": Verdict.FAIL}
    assert not list((short / "labctl").glob("cell-*"))
