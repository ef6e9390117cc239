"""What is kept of a campaign, so that another day goes on where it ended."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

FORMS = ("structure", "coverage")
"""By structure: made from what is known of an input, by hypothesis. By coverage: bytes changed at
will, those kept that reached something new; by libFuzzer through atheris, which guides the first
form too where it is there."""


@dataclass
class State:
    """What one form of one target came to so far."""

    inputs: int = 0
    seconds: float = 0.0
    edges: int = 0
    """Branches reached, as atheris counts them; 0 without it."""
    seeds: list[int] = field(default_factory=list)
    """The seed of each run."""


class Place:
    """The folder of one target."""

    def __init__(self, top: Path, target: str) -> None:
        self.folder = top / target
        self.findings = self.folder / "findings"

    def corpus(self, form: str) -> Path:
        """Return where the inputs of a form lie that reached something new."""
        return self.folder / f"corpus-{form}"

    def make(self, form: str) -> None:
        """Make what is missing."""
        self.corpus(form).mkdir(parents=True, exist_ok=True)
        self.findings.mkdir(exist_ok=True)

    def clear(self) -> None:
        """Begin anew: remove what a campaign left here, and nothing else."""
        for name in ("findings", *(f"corpus-{form}" for form in FORMS)):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for form in FORMS:
            self._file(form).unlink(missing_ok=True)

    def load(self, form: str) -> State:
        """Return what was kept."""
        try:
            return State(**json.loads(self._file(form).read_bytes()))
        except FileNotFoundError:
            return State()

    def save(self, form: str, state: State) -> None:
        """Keep a state; the one before stays until the new one is whole."""
        draft = self._file(form).with_suffix(".draft")
        draft.write_text(json.dumps(asdict(state)))
        draft.replace(self._file(form))

    def found(self) -> int:
        """Return how many faults were found."""
        return sum(1 for _ in self.findings.glob("*/what"))

    def _file(self, form: str) -> Path:
        return self.folder / f"{form}.json"
