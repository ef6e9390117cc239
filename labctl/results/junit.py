"""The JUnit form of a run: one suite an arm, one case a check, for CI systems and viewers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from labctl.results.model import ArmResult, Check, Run, Verdict, combine

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
OUTCOMES = {Verdict.FAIL: Failure, Verdict.ERROR: Error, Verdict.SKIP: Skipped}
"""What JUnit calls a verdict; a pass has no such element."""


def render(run: Run) -> bytes:
    """Return the run as a JUnit XML document.

    Its totals never look better than the run's verdict: where an arm's or the run's verdict does
    not follow from the checks alone (an arm that never got to its checks, say), a case named
    `verdict` carries it. Times are those of the checks, so that a suite's, which consumers add up,
    is about that of its arm.
    """
    report = JUnitXml(xml_text(run.experiment))
    for arm in run.arms:
        report.add_testsuite(_suite(run, arm))
    if combine(arm.verdict for arm in run.arms) is not run.verdict or not run.arms:
        suite = TestSuite(xml_text(run.experiment))
        suite.add_testcase(_verdict_case(run.experiment, run.verdict, _why(run)))
        report.add_testsuite(suite)
    for suite in report:
        suite.timestamp = run.started.removesuffix("Z")
        suite.add_property("run", xml_text(run.id))
    # What is one for all suites stands in the first: JUnit has no place for it above them.
    first = next(iter(report))
    first.add_property("hypothesis", xml_text(run.hypothesis))
    for key, value in run.environment.flat().items():
        first.add_property(xml_text(key), xml_text(value))
    report.update_statistics()
    text: bytes = report.tostring()
    return text


def _suite(run: Run, arm: ArmResult) -> TestSuite:
    suite = TestSuite(xml_text(f"{run.experiment}.{arm.name}"))
    for check in arm.checks:
        suite.add_testcase(_case(suite.name, check))
    if combine(check.verdict for check in arm.checks) is not arm.verdict or not arm.checks:
        why = _why_skipped([arm]) if arm.verdict is Verdict.SKIP else arm.description
        suite.add_testcase(_verdict_case(suite.name, arm.verdict, why))
    return suite


def _why(run: Run) -> str:
    """Say why a run's verdict is another than that of its arms."""
    if run.verdict is Verdict.SKIP:
        return _why_skipped(run.arms)
    return "; ".join(run.notes) or ("stopped early" if run.partial else "no arm was judged")


def _why_skipped(arms: Iterable[ArmResult]) -> str:
    """Return the reason that was given last: nothing was tried after it."""
    checks = [check for arm in arms for check in arm.checks if check.verdict is Verdict.SKIP]
    return checks[-1].observed if checks else "not tried"


def _case(classname: str, check: Check) -> TestCase:
    name = f"{check.name} [{check.hop}]" if check.hop else check.name
    case = TestCase(xml_text(name), classname=classname, time=check.seconds)
    if make := OUTCOMES.get(check.verdict):
        if check.verdict is Verdict.SKIP:
            outcome = make(xml_text(check.observed))
        else:
            message = f"expected {check.expected}, observed {check.observed}"
            outcome = make(xml_text(message), check.verdict.value)
        if check.evidence:
            outcome.text = xml_text("\n".join(check.evidence))
        case.result = [outcome]
    return case


def _verdict_case(classname: str, verdict: Verdict, why: str) -> TestCase:
    case = TestCase("verdict", classname=xml_text(classname), time=0.0)
    if make := OUTCOMES.get(verdict):
        case.result = [make(xml_text(why), verdict.value)]
    return case


def xml_text(text: str) -> str:
    """Replace what XML 1.0 cannot hold (section 2.2), such as a console's escape characters."""
    return _NOT_XML.sub("\ufffd", text)
