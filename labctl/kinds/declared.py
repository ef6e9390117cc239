"""What other packages than labctl declare by entry points, and why some of it cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from labctl.errors import shown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
OURS = "labctl"
"""The distribution that declares what is shipped."""


def others(group: str) -> dict[str, list[EntryPoint]]:
    """Return the entry points of a group that are not labctl's, in the order of their names."""
    from importlib.metadata import entry_points  # here: most commands need none, and it is slow

    declared: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        if point.dist is None or point.dist.name != OURS:
            declared.setdefault(point.name, []).append(point)
    return dict(sorted(declared.items()))


def load(
    word: str,
    points: list[EntryPoint],
    make: Callable[[object, str], tuple[T | None, str]],
    *,
    is_ours: bool,
) -> tuple[T | None, str, str]:
    """Load what one name is declared as; return it, its package, and why there is none.

    `word` is what messages call such a thing. `make` gets what was loaded and how messages call
    it, and returns it in its final form, or why it is of no use. `is_ours` tells that labctl has
    something of this name.
    """
    name = points[0].name
    by = sorted(_distribution(point) for point in points)
    package = by[-1]
    if is_ours:
        by.insert(0, OURS)
    if len(by) > 1:
        told = f"the {word} {shown(name)} is declared twice: by {' and by '.join(by)}"
        return None, package, told
    what = f"the {word} {shown(name)} of {package}"
    try:
        made, problem = make(points[0].load(), what)
    except Exception as wrong:  # whatever a stranger's module does when it is imported
        why = f"{type(wrong).__name__}: {wrong}".splitlines()[0]
        return None, package, f"{what} cannot be imported: {why}"
    return made, package, problem


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
