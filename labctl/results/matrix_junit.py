"""The JUnit form of a matrix: one suite an experiment, one case a cell."""

from __future__ import annotations

from junitparser import JUnitXml, TestCase, TestSuite

from labctl.results.junit import OUTCOMES, xml_text
from labctl.results.matrix import Attempt, Matrix
from labctl.results.model import Verdict


def render(made: Matrix) -> bytes:
    """Return a matrix as a JUnit XML document; a cell that was not run is an error."""
    suites: dict[str, TestSuite] = {}
    for one in made.wanted:
        name = one.cell.experiment
        suite = suites.setdefault(name, TestSuite(xml_text(name)))
        last = one.last
        case = TestCase(xml_text(one.cell.name), classname=suite.name, time=_seconds(last))
        verdict = one.verdict or Verdict.ERROR
        if outcome := OUTCOMES.get(verdict):
            case.result = [outcome(xml_text(_why(last)), verdict.value)]
        suite.add_testcase(case)
    report = JUnitXml(xml_text(made.name))
    for suite in suites.values():
        report.add_testsuite(suite)
    report.update_statistics()
    text: bytes = report.tostring()
    return text


def _seconds(last: Attempt | None) -> float:
    return last.seconds if last else 0.0


def _why(last: Attempt | None) -> str:
    if last is None:
        return "it was not run"
    return last.reason or f"see the run {last.run}"
