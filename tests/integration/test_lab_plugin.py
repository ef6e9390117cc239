"""The pytest plugin with real guests: the documentation's own example, and a test that fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pcapng import FileScanner

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.integration

DOCUMENT = Path(__file__).parents[2] / "docs" / "pytest.md"

FAILING = """
import pytest
from labctl import probes

@pytest.mark.topology("bridged.yaml")
def test_that_fails(lab, observe):
    with observe(lab, "vm1", "vm2") as seen:
        assert probes.ping(lab, "vm1", "vm2").works
    assert not any(hop.sightings for hop in seen.evidence.hops), "something was seen"
"""


def test_the_documented_example_passes_and_a_failing_test_keeps_its_evidence(
    pytester: pytest.Pytester, pytestconfig: pytest.Config
) -> None:
    code = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0]
    pytester.makepyfile(test_documented=code, test_failing=FAILING)
    result = pytester.runpytest_subprocess(
        "-p",
        "no:cacheprovider",
        "--accel",
        pytestconfig.getoption("--accel"),
        "-k",
        "bridge or fails",
    )
    result.assert_outcomes(passed=1, failed=1, deselected=3)
    result.stdout.fnmatch_lines(
        ["*something was seen*", "*console of bridged-*: vm1*", "*labctl: ready*", "*- captures -*"]
    )
    kept = re.search(r"(\d+) frames at 4 hops: (\S+\.pcapng)", result.stdout.str())
    assert kept
    with Path(kept[2]).open("rb") as file:
        blocks = [type(block).__name__ for block in FileScanner(file)]
    assert blocks.count("InterfaceDescription") == 4
    assert blocks.count("EnhancedPacket") == int(kept[1]) >= 4
