"""Two records compared: what may differ from run to run, and what may not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compare_records import differences, main, states
from labctl.results import Recorder
from labctl.results.model import ArmResult, Check, Environment, Run, Verdict

LINES = (
    "vm1:eth0: partial, needs_csum (field 0x1234, pseudo-header sum 0x1234, full sum 0x4321)",
    "r1:eth1: partial, no metadata (field 0x1234)",
    "vm2:eth0: not seen",
)
SYN = Check("SYN vm1 to vm2", Verdict.PASS, "partial", "so at all 8 hops", LINES)
COUNT = Check("TcpInCsumErrors at vm2", Verdict.PASS, "grows", "grew by 2")


def run(*checks: Check, arm: str = "raw/ipv4") -> Run:
    arms = [ArmResult.judge(arm, "an arm", checks)]
    return Run.judge("id", "e", "h", arms, environment=Environment(), started="")


def test_states_are_read_from_the_evidence() -> None:
    assert states(SYN) == (
        "vm1:eth0: partial, needs_csum",
        "r1:eth1: partial, no metadata",
        "vm2:eth0: not seen",
    )
    assert states(replace(COUNT, evidence=("TCP_CSUM at tcp_v4_rcv+0x1", "vm1: hello"))) == ()


def test_counts_sums_and_order_may_differ() -> None:
    other = tuple(line.replace("0x1234", "0xabcd") for line in LINES)
    again = run(replace(COUNT, observed="grew by 3"), replace(SYN, evidence=other, seconds=2.0))
    assert differences(run(SYN, COUNT), again) == []


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (run(SYN), "raw/ipv4: TcpInCsumErrors at vm2: is gone"),
        (run(SYN, COUNT, COUNT), "raw/ipv4: TcpInCsumErrors at vm2 #2: is new"),
        (run(replace(SYN, expected="valid"), COUNT), "expected: partial → valid"),
        (run(replace(SYN, verdict=Verdict.FAIL), COUNT), "verdict: pass → fail"),
        (run(replace(SYN, evidence=LINES[:2]), COUNT), "states: "),
        (run(SYN, replace(COUNT, observed="fell")), "observed: grew by N → fell"),
        (run(SYN, COUNT, arm="raw/ipv6"), "raw/ipv4: SYN vm1 to vm2: is gone"),
    ],
)
def test_everything_else_is_told(after: Run, told: str) -> None:
    assert any(told in line for line in differences(run(SYN, COUNT), after))


def test_folders_of_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = []
    for one in (run(SYN, COUNT), run(SYN)):
        with Recorder.create("e", tmp_path) as recorder:
            recorder.finish(replace(one, id=recorder.id))
        kept.append(str(recorder.path))
    a, b = kept
    assert main([a, a]) == 0
    assert "e: 2 checks, 0 differences" in capsys.readouterr().out
    assert main([a, b]) == 1
    assert "is gone" in capsys.readouterr().out
    assert main([a]) == 2
