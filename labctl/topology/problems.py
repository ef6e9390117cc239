"""What is wrong with a topology, and where: every problem of a file is told in one go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from labctl.errors import UsageError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; `str()` gives `file:line:column: message (hint)`."""

    file: str
    line: int
    """From 1; 0 where the topology did not come from text."""
    column: int
    """From 1, in characters."""
    where: str
    """The way to the value, such as `nodes.vm1.interfaces[0].mtu`; empty for the whole."""
    message: str
    hint: str = ""

    def __str__(self) -> str:
        if self.line:
            place = f"{self.file}:{self.line}:{self.column}"
        else:
            place = f"{self.file}: {self.where}" if self.where else self.file
        return f"{place}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class TopologyError(UsageError):
    """A topology that cannot be used; `problems` holds all of it, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        # By text: what an alias or a merge repeats is one fault of the file.
        unique = {str(problem): problem for problem in problems}.values()
        self.problems = tuple(sorted(unique, key=lambda problem: (problem.line, problem.column)))
        super().__init__("\n".join(str(problem) for problem in self.problems))
