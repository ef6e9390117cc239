"""Variants: the cases of an experiment as the product of its axes, each with a name of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from labctl.errors import UsageError, nearest, shown

Axis = Mapping[str, Any] | Sequence[Any]
"""The values of an axis by their labels; those of a sequence are their own labels."""


@dataclass(frozen=True)
class Case:
    """One combination of values, a value of each axis; an arm of the experiment."""

    labels: Mapping[str, str]
    """By axis, in order."""
    values: Mapping[str, Any]
    """By axis."""
    description: str = ""

    @property
    def name(self) -> str:
        """The labels joined, such as `raw/ipv4`: the name of its arm."""
        return "/".join(self.labels.values())

    def __getitem__(self, axis: str) -> Any:
        """Return the value of an axis."""
        return self.values[axis]


def product(
    variants: Mapping[str, Axis],
    where: Callable[[Case], bool] | None = None,
    describe: Callable[[Case], str] | None = None,
) -> tuple[Case, ...]:
    """Return all combinations of the axes' values, the last axis changing fastest.

    `where` leaves out those that make no sense; `describe` says what an arm is about, by default
    its axes and labels. Raises `UsageError` where an axis or the whole is empty, or two cases have
    one name.
    """
    axes: dict[str, list[tuple[str, Any]]] = {}
    for axis, values in variants.items():
        pairs = values.items() if isinstance(values, Mapping) else ((str(v), v) for v in values)
        axes[axis] = list(pairs)
        if not axes[axis]:
            raise UsageError(f"the axis {shown(axis)} has no values")
    found: list[Case] = []
    for chosen in itertools.product(*axes.values()):
        labels = {axis: label for axis, (label, _) in zip(axes, chosen, strict=True)}
        values = {axis: value for axis, (_, value) in zip(axes, chosen, strict=True)}
        case = Case(labels, values)
        if where is None or where(case):
            text = ", ".join(f"{axis} {label}" for axis, label in labels.items())
            found.append(Case(labels, values, describe(case) if describe else text))
    names = [case.name for case in found]
    if not names:
        raise UsageError("the variants give no case", "let `where` leave one over")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"two cases are called {twice[0]}", "give an axis other labels: a mapping has them"
        )
    return tuple(found)


def fits(case: Case, patterns: Sequence[str]) -> bool:
    """Tell whether a case's name is, or fits, one of some patterns such as `raw/*`; none: all."""
    return not patterns or any(fnmatchcase(case.name, pattern) for pattern in patterns)


def check_patterns(experiment: str, cases: Sequence[Case], patterns: Sequence[str]) -> None:
    """Raise `UsageError` where a pattern chooses nothing."""
    names = [case.name for case in cases]
    if not names:
        raise UsageError(
            f"{experiment} has no cases to choose from", "leave --only out: it runs as a whole"
        )
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"{experiment} has no case {shown(pattern)}", nearest(pattern, names))
