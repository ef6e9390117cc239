"""When make makes the environment anew."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import labctl

CHECKOUT = Path(labctl.__file__).parents[1]
FROM_MAKE = ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL", "PYTHON", "VENV")


def stamp(folder: Path, version: str) -> str:
    """Where make looks for a made environment, with a Python of this version on the PATH."""
    python = folder / "python3"
    python.write_text(f"#!/bin/sh\necho Python {version}\n")
    python.chmod(0o755)
    # Not what the make that runs the tests was told.
    env = {key: value for key, value in os.environ.items() if key not in FROM_MAKE}
    rule = "show-environment: ; @echo $(ENVIRONMENT)"
    return subprocess.run(
        ["make", "--no-print-directory", f"--eval={rule}", "show-environment"],
        cwd=CHECKOUT, env={**env, "PATH": f"{folder}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip


def test_another_python_of_the_same_name_needs_another_environment(tmp_path: Path) -> None:
    before = stamp(tmp_path, "3.11.2")
    assert "/.made-" in before
    assert stamp(tmp_path, "3.11.2") == before
    assert stamp(tmp_path, "3.13.5") != before
