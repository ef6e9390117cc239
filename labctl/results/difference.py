"""What differs between two runs: verdicts, checks, environment. Times are never compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from labctl.results.model import ArmResult, Check, Run, Verdict, flatten

_K = TypeVar("_K")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Change:
    """A value that differs; None where one of the runs does not have it."""

    key: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class CheckChange:
    """A check that differs; None where one of the runs does not have it."""

    arm: str
    name: str
    """The check's name, with its hop in brackets where it has one."""
    a: Check | None
    b: Check | None

    @property
    def kind(self) -> str:
        """`added`, `removed`, `verdict`, or `observed` where the verdict stayed the same."""
        if self.a is None:
            return "added"
        if self.b is None:
            return "removed"
        return "verdict" if self.a.verdict is not self.b.verdict else "observed"


@dataclass(frozen=True)
class Difference:
    """What is different in run `b` compared with run `a`."""

    a: str
    b: str
    verdicts: tuple[Change, ...]
    """The experiment, the run's verdict and the arms' verdicts."""
    checks: tuple[CheckChange, ...]
    environment: tuple[Change, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.verdicts or self.checks or self.environment)

    @property
    def same_verdicts(self) -> bool:
        """Whether the runs came to the same verdicts, check for check."""
        return not self.verdicts and all(change.kind == "observed" for change in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the difference as plain data, ready for `json.dumps`."""
        return {
            "a": self.a,
            "b": self.b,
            "same": self.same,
            "same_verdicts": self.same_verdicts,
            "verdicts": [asdict(change) for change in self.verdicts],
            "checks": [
                {
                    "arm": change.arm,
                    "name": change.name,
                    "kind": change.kind,
                    "a": _plain(change.a),
                    "b": _plain(change.b),
                }
                for change in self.checks
            ],
            "environment": [asdict(change) for change in self.environment],
        }


def diff(a: Run, b: Run) -> Difference:
    """Compare two runs, usually of one experiment."""
    checks_a, checks_b = _checks(a), _checks(b)
    checks = tuple(
        CheckChange(*key, checks_a.get(key), checks_b.get(key))
        for key in _keys(checks_a, checks_b)
        if _judged(checks_a.get(key)) != _judged(checks_b.get(key))
    )
    return Difference(
        a.id,
        b.id,
        _changes(_verdicts(a), _verdicts(b)),
        checks,
        _changes(_environment(a), _environment(b)),
    )


def _keys(a: Mapping[_K, object], b: Mapping[_K, object]) -> list[_K]:
    """Return the keys of both in the order they were written, each once."""
    return list(dict.fromkeys((*a, *b)))


def _changes(a: Mapping[str, str], b: Mapping[str, str]) -> tuple[Change, ...]:
    return tuple(
        Change(key, a.get(key), b.get(key)) for key in _keys(a, b) if a.get(key) != b.get(key)
    )


def _verdicts(run: Run) -> dict[str, str]:
    """Return the experiment and every verdict; whether it was cut short belongs to the verdict."""
    partial = " (partial)" if run.partial else ""
    return {
        "experiment": run.experiment,
        "verdict": f"{run.verdict}{partial}",
        **{f"arm {name}": arm.verdict.value for name, arm in _arms(run).items()},
    }


def _environment(run: Run) -> dict[str, str]:
    found = run.environment.flat()
    for name, arm in _arms(run).items():
        found.update(flatten(arm.offloads, f"arm {name}.offloads."))
        found.update(flatten(arm.routers, f"arm {name}.routers."))
    return found


def _checks(run: Run) -> dict[tuple[str, str], Check]:
    """Return the checks by arm and name; a name used twice is numbered, never lost."""
    return {
        (arm_name, name): check
        for arm_name, arm in _arms(run).items()
        for name, check in _numbered(
            (f"{one.name} [{one.hop}]" if one.hop else one.name, one) for one in arm.checks
        ).items()
    }


def _arms(run: Run) -> dict[str, ArmResult]:
    """Return the arms by name; in older records a name may be used twice."""
    return _numbered((arm.name, arm) for arm in run.arms)


def _numbered(named: Iterable[tuple[str, _T]]) -> dict[str, _T]:
    """Return things by their names, a name used again as `name #2`."""
    found: dict[str, _T] = {}
    for name, thing in named:
        label, number = name, 1
        while label in found:
            number += 1
            label = f"{name} #{number}"
        found[label] = thing
    return found


def _judged(check: Check | None) -> tuple[Verdict, str, str] | None:
    """Return what two runs can have in common: packets and times in the evidence never agree."""
    return (check.verdict, check.expected, check.observed) if check else None


def _plain(check: Check | None) -> dict[str, Any] | None:
    return None if check is None else {**asdict(check), "verdict": check.verdict.value}
