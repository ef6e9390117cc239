"""What is kept of a campaign, so that another day goes on where it ended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .plan import SHORTAGES


@dataclass(frozen=True)
class Outcome:
    """What came of a round."""

    seed: int
    number: int
    verb: str
    victim: str
    signal: str
    moment: float
    struck: bool
    """False where the verb, or the victim, had ended before."""
    after: float
    """Seconds from the start of the verb to the signal."""
    status: int | None
    """What labctl exited with; None where it had to be ended."""
    findings: list[str] = field(default_factory=list)
    said: str = ""
    """The end of its standard error, where something was found."""

    @property
    def is_kill(self) -> bool:
        """Whether a signal was sent, and reached somebody."""
        return self.struck and self.signal not in SHORTAGES


class Journal:
    """A folder with a line for each round, and how long each verb usually takes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rounds = folder / "rounds.jsonl"
        self._usual = folder / "usual.json"
        folder.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Begin anew."""
        self._rounds.unlink(missing_ok=True)
        self._usual.unlink(missing_ok=True)

    def add(self, outcome: Outcome) -> None:
        """Keep what came of a round."""
        with self._rounds.open("a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")

    def outcomes(self) -> list[Outcome]:
        """Return all that is kept; a line that a kill has cut short is none."""
        try:
            lines = self._rounds.read_text().splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                found.append(Outcome(**json.loads(line)))
            except ValueError:
                continue
        return found

    def usual(self) -> dict[str, float]:
        """Return the seconds that each verb took undisturbed."""
        try:
            told: dict[str, float] = json.loads(self._usual.read_text())
        except FileNotFoundError:
            return {}
        return told

    def set_usual(self, usual: dict[str, float]) -> None:
        """Keep how long the verbs take."""
        self._usual.write_text(json.dumps(usual))


def table(outcomes: list[Outcome]) -> str:
    """Return what a campaign came to, a line for each verb, by whom the signals went to."""
    rows: list[tuple[str, ...]] = [
        ("verb", "rounds", "kills", "to labctl", "to others", "stops", "short", "found")
    ]
    verbs = list(dict.fromkeys(one.verb for one in outcomes))
    for verb in [*verbs, "all"]:
        some = [one for one in outcomes if verb in (one.verb, "all")]
        struck = [one for one in some if one.is_kill]
        short = sum(one.struck for one in some) - len(struck)
        ours = sum(one.victim == "labctl" for one in struck)
        stops = sum(one.signal == "STOP" for one in struck)
        found = sum(bool(one.findings) for one in some)
        numbers = (len(some), len(struck), ours, len(struck) - ours, stops, short, found)
        rows.append((verb, *map(str, numbers)))
    return "\n".join(f"{row[0]:12}" + "".join(f"{cell:>11}" for cell in row[1:]) for row in rows)
