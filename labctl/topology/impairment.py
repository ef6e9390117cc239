"""What is done to the frames that leave by a link, to make it a worse one: tc-netem(8)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from labctl.errors import UsageError, shown

MOST_DELAY_US = 60_000_000
MOST_RATE = 34_000_000_000
"""What the kernel's word for octets a second holds, in bits."""
_TIME = {"us": 1, "ms": 1_000, "s": 1_000_000}
_RATE = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_DIGITS = r"[0-9]{1,12}(\.[0-9]{1,6})?"
DURATION = f"^{_DIGITS} ?(us|ms|s)$"
PERCENTAGE = f"^{_DIGITS} ?%?$"
RATE = f"^{_DIGITS} ?(|k|m|g)bit$"
"""How values are written, as JSON Schema says it."""
_NUMBER = re.compile(rf"({_DIGITS}) ?([a-zA-Z%]*)")


@dataclass(frozen=True)
class Impairment:
    """What happens to frames on their way out by a link; what is zero does not happen."""

    delay: int = 0
    """Microseconds."""
    jitter: int = 0
    """Microseconds by which the delay is more or less."""
    loss: float = 0.0
    """Percent of the frames, as the others below."""
    duplicate: float = 0.0
    corrupt: float = 0.0
    """One bit is flipped. The kernel completes a partial checksum before (netem_enqueue(),
    net/sched/sch_netem.c), so that the receiver sees it."""
    reorder: float = 0.0
    """Sent at once, before those that wait for the delay."""
    rate: int = 0
    """Bits a second."""

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self != Impairment()

    def __str__(self) -> str:
        """Say it as it is written."""
        return " ".join(f"{name} {value}" for name, value in self.written().items())

    def written(self) -> dict[str, str]:
        """Return what there is of it, by its words, as `reading` takes it."""
        found = {}
        for name in (one.name for one in fields(self)):
            if value := getattr(self, name):
                found[name] = _UNITS[name].write(value)
        return found

    def check(self) -> None:
        """Raise `UsageError` for what has no effect by itself."""
        if (self.jitter or self.reorder) and not self.delay:
            what = "jitter" if self.jitter else "reorder"
            raise UsageError(f"{what} changes nothing without a delay", "give a delay: 20ms")
        if self.jitter > self.delay:
            raise UsageError("the jitter is more than the delay", "give a longer delay")


@dataclass(frozen=True)
class _Unit:
    """How a kind of value is written."""

    what: str
    example: str
    factors: dict[str, int]
    most: int

    def read(self, text: str) -> float:
        found = _NUMBER.fullmatch(text.strip())
        factor = self.factors.get(found[3].lower()) if found else None
        if found is None or factor is None:
            raise UsageError(
                f"{shown(text)} is no {self.what}", f"write one such as {self.example}"
            )
        value = float(found[1]) * factor
        if value > self.most:
            raise UsageError(f"{shown(text)} is more than {self.write(self.most)}")
        return value

    def write(self, value: float) -> str:
        unit, factor = max(
            ((unit, factor) for unit, factor in self.factors.items() if unit and value >= factor),
            key=lambda pair: pair[1],
            default=min(((u, f) for u, f in self.factors.items() if u), key=lambda pair: pair[1]),
        )
        return f"{value / factor:.6g}{unit}"


_DURATION = _Unit("duration", "20ms", _TIME, MOST_DELAY_US)
_PERCENT = _Unit("percentage", "1.5%", {"": 1, "%": 1}, 100)
_BITRATE = _Unit("rate", "10mbit", _RATE, MOST_RATE)
_UNITS = {
    "delay": _DURATION,
    "jitter": _DURATION,
    "loss": _PERCENT,
    "duplicate": _PERCENT,
    "corrupt": _PERCENT,
    "reorder": _PERCENT,
    "rate": _BITRATE,
}


EXAMPLES = {name: unit.example for name, unit in _UNITS.items()}


def reading(words: Mapping[str, str], *, part: bool = False) -> Impairment:
    """Return what words such as `{"delay": "20ms"}` say.

    Raises `UsageError` for a value that is none, and, unless it is only a `part` of an impairment,
    for what has no effect by itself.
    """
    values: dict[str, float] = {}
    for name, text in words.items():
        value = _UNITS[name].read(text)
        whole = name in ("delay", "jitter", "rate")
        values[name] = int(value) // 8 * 8 if name == "rate" else int(value) if whole else value
    found = Impairment(**values)  # type: ignore[arg-type]
    if not part:
        found.check()
    return found
