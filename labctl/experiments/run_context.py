"""A trial: one experiment being run on a lab, arm by arm, check by check."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ParamSpec

from labctl.capture import pcapng
from labctl.capture.session import Evidence
from labctl.errors import LabctlError
from labctl.events import Emit, Event, State, silent
from labctl.experiments.deferred import Deferred
from labctl.lab.lab import Lab
from labctl.results.model import ArmResult, Check, Verdict
from labctl.results.recorder import capture_name, file_stem, numbered

P = ParamSpec("P")

UNCHECKED = "nothing was checked, so nothing was shown"
NOT_PASSED = (Verdict.FAIL, Verdict.ERROR)


class Skip(Exception):  # noqa: N818 - it is not an error, and reads better so
    """Raise it in an experiment to say why an arm, or all of it, cannot be tried here.

    It decides: what passed before does not make that arm, or that run, a pass. What failed before
    does make it a fail, and what could not be told an error.
    """


class Stopped(BaseException):
    """An arm did not pass, and its lab is to be looked into: the rest is not tried.

    It is no `Exception`, so that an experiment's own `except` lets it through.
    """

    def __init__(self, *, keep: bool) -> None:
        """`keep` tells whether the lab is to stay up."""
        self.keep = keep


Look = Callable[[str], None]
"""Called with one line about the first check of an arm that does not pass, before anything of the
arm is undone. It may wait as long as it likes; KeyboardInterrupt from it ends the lab."""


class Arm:
    """The same steps under one condition; what is checked here makes its verdict."""

    def __init__(
        self, name: str, description: str, captures: Path, emit: Emit, look: Look | None = None
    ) -> None:
        """Start with nothing checked, which is an error and never a pass."""
        self.name = name
        self.description = description
        self.checks: list[Check] = []
        self.offloads: dict[str, dict[str, dict[str, bool]]] = {}
        self.routers: dict[str, str] = {}
        self._given_up = False
        self._deferred = Deferred()
        self._captures = captures
        self._emit = emit
        self._look = look
        self._begun = self._checked = time.monotonic()

    def check(
        self,
        name: str,
        expected: str,
        observed: str,
        passed: bool | None,
        *,
        evidence: Iterable[str] = (),
        hop: str | None = None,
    ) -> bool:
        """Record one check; `passed` None means that it could not be told, which is an error."""
        verdict = Verdict.ERROR if passed is None else Verdict.PASS if passed else Verdict.FAIL
        return self._add(name, verdict, expected, observed, evidence, hop)

    def skip(self, name: str, expected: str, why: str) -> None:
        """Record that a check was not tried, and why; the others make the arm's verdict."""
        self._add(name, Verdict.SKIP, expected, why, (), None)

    def give_up(self, why: str) -> None:
        """Record why the rest of the arm was not tried: it can no longer pass."""
        self._given_up = True
        self.skip("arm", "to be tried", why)

    def error(self, name: str, what: str, evidence: Iterable[str] = ()) -> None:
        """Record that something could not be told."""
        self._add(name, Verdict.ERROR, "an answer", what, evidence, None)

    def defer(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call it at the end of the arm, however that ends; what was deferred last is called first.

        One that fails is an error of the arm, and the others are called all the same.
        """
        self._deferred.add(call, *args, **kwargs)

    def undo(self) -> None:
        """Make the deferred calls; an interrupt goes on when all have been made."""
        try:
            self._deferred.run(self._fault)
        except BaseException as stop:  # what passed so far must not make this arm a pass
            self._look = None
            self._fault(LabctlError(f"it did not end: {type(stop).__name__}"))
            raise

    def _fault(self, error: LabctlError) -> None:
        """Record what went wrong in a deferred call."""
        name = numbered("deferred", [check.name for check in self.checks])
        self.error(name, error.message, lines_of(error))

    def _add(
        self,
        name: str,
        verdict: Verdict,
        expected: str,
        observed: str,
        evidence: Iterable[str],
        hop: str | None,
    ) -> bool:
        before, self._checked = self._checked, time.monotonic()
        seconds = self._checked - before
        check = Check(name, verdict, expected, observed, tuple(evidence), hop, seconds)
        self.checks.append(check)
        detail = f"{verdict}: {name}: {observed}"
        self._emit(Event("check", self.name, "progress", detail))
        if verdict in NOT_PASSED:
            self._let_look(f"{self.name}: {detail}")
        return verdict is Verdict.PASS

    def _let_look(self, what: str) -> None:
        """Let whoever wants to look into the lab do so, once an arm."""
        look, self._look = self._look, None
        if look is None:
            return
        begun = time.monotonic()
        try:
            look(what)
        except KeyboardInterrupt:
            raise Stopped(keep=False) from None
        waited = time.monotonic() - begun  # which is no part of how long the arm took
        self._begun += waited
        self._checked += waited

    def interrupted(self, fault: BaseException) -> None:
        """Record that the arm was broken off; nobody is asked to look."""
        if not isinstance(fault, Exception):
            self._look = None
        self.error("arm", f"it did not end: {type(fault).__name__}: {fault}".rstrip(": "))

    def keep(self, evidence: Evidence) -> Path:
        """Write what was captured to the record's `captures/<arm>.pcapng`; return its path."""
        path = self._captures / capture_name(self.name)
        pcapng.write(path, evidence.hops)
        return path

    def result(self) -> ArmResult:
        """Return what this arm came to; one in which nothing was checked is an error."""
        if not self.checks:
            self.error("arm", UNCHECKED)
        seconds = time.monotonic() - self._begun
        return ArmResult.judge(
            self.name,
            self.description,
            self.checks,
            offloads=self.offloads,
            routers=self.routers,
            seconds=seconds,
            given_up=self._given_up,
        )


def state_of(verdict: Verdict) -> State:
    """Return the event state that shows a verdict."""
    return "done" if verdict in (Verdict.PASS, Verdict.SKIP) else "failed"


def lines_of(error: LabctlError) -> list[str]:
    """Return what an error tells besides its message, as lines of evidence.

    Who reads them has no lab any more, but the consoles that are kept with the record.
    """
    hint = re.sub(r"labctl logs (\S+)", r"console/\1.log in the folder of this run", error.hint)
    return [line for line in (hint, *error.detail.splitlines()) if line]


class Trial:
    """What an experiment's body works with."""

    def __init__(
        self,
        lab: Lab,
        captures: Path,
        scratch: Path,
        emit: Emit = silent,
        look: Look | None = None,
        check_lab: Callable[[], None] = lambda: None,
    ) -> None:
        """Start a trial on a running lab; captures are kept in `captures`.

        With `look` the first arm that does not pass is the last: it raises `Stopped`. `check_lab`
        raises `LabctlError` where the lab itself is broken, by which nothing is shown any more.
        """
        self.lab = lab
        self.arms: list[ArmResult] = []
        self.story: list[str] = []
        """Lines of the page a newcomer reads; the body appends to it."""
        self.notes: list[str] = []
        self._names: list[str] = []
        self._deferred = Deferred()
        self._captures = captures
        self._scratch = scratch
        self._emit = emit
        self._look = look
        self._check_lab = check_lab

    def scratch(self, name: str) -> Path:
        """Return a folder for an arm's raw streams; it goes with the lab."""
        folder = self._scratch / file_stem(name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def defer(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call it at the end of the experiment, as `Arm.defer` does at that of an arm."""
        self._deferred.add(call, *args, **kwargs)

    def undo(self, tell: Callable[[LabctlError], None]) -> None:
        """Make the calls that the experiment deferred, and tell of those that fail."""
        self._deferred.run(tell)

    @contextlib.contextmanager
    def arm(self, name: str, description: str) -> Iterator[Arm]:
        """Run one arm: a failed `assert` is a fail, a fault of the lab an error; the next goes on.

        Whatever the arm changed must be undone by its own `with` blocks, or by what it defers. A
        name that was used before is numbered: `try`, `try #2`.
        """
        name = numbered(name, self._names)
        self._names.append(name)
        self._emit(Event("arm", name, "start", description))
        arm = Arm(name, description, self._captures, self._emit, self._look)
        try:
            try:
                yield arm
            finally:
                self._find_faults(arm)
        except AssertionError as failed:
            arm.check("assertion", "to hold", str(failed) or "it does not hold", False)
        except Skip as why:
            arm.give_up(str(why))
        except LabctlError as error:
            arm.error("arm", error.message, lines_of(error))
        except Stopped:
            raise
        except BaseException as fault:  # what passed so far must not make this arm a pass
            arm.interrupted(fault)
            raise
        finally:
            try:
                arm.undo()
            finally:
                result = arm.result()
                self.arms.append(result)
                self._emit(Event("arm", name, state_of(result.verdict), str(result.verdict)))
        if self._look and result.verdict in NOT_PASSED:
            raise Stopped(keep=True)

    def _find_faults(self, arm: Arm) -> None:
        """Record what is broken in the lab: then what passed and what failed in the arm is moot."""
        try:
            self._check_lab()
        except LabctlError as broken:
            arm.error("lab", broken.message, lines_of(broken))
