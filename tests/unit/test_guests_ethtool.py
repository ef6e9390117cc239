"""The stand-in for ethtool(8), held against the kernel's own answer by netlink."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from labctl.guests import ethtool
from labctl.network import features


@pytest.fixture
def program(tmp_path: Path) -> Path:
    place = tmp_path / "ethtool"
    place.write_text(ethtool.stand_in())
    place.chmod(0o755)
    return place


def run(program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", program, *words], capture_output=True, text=True, check=False
    )


def test_it_tells_of_each_feature_what_the_kernel_does(program: Path) -> None:
    told = ethtool.parse_features(run(program, "-k", "lo").stdout)
    for name, known in features.read("lo").items():
        if name in told:  # of a group of one the long word is told alone, as ethtool does
            assert (told[name].active, told[name].fixed) == (known.active, known.fixed), name
    assert told["tx-checksumming"].active
    assert told["rx-checksumming"].fixed
    assert len(told) > 40


def test_an_interface_that_is_not_there_is_an_error(program: Path) -> None:
    done = run(program, "-k", "nothing0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No such device" in done.stderr


def test_what_cannot_change_is_refused_as_ethtool_does(program: Path) -> None:
    done = run(program, "-K", "lo", "rx", "off")
    assert (done.returncode, done.stderr) == (1, "Could not change any device features\n")


def test_an_old_python_can_read_it() -> None:
    tree = ast.parse(ethtool.stand_in(), feature_version=(3, 4))
    assert not any(isinstance(part, ast.JoinedStr | ast.AnnAssign) for part in ast.walk(tree))
