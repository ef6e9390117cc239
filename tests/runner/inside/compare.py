"""Compare two snapshots of a machine, and say what differs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from . import allowed
from .machine import Snapshot, Things, matcher

Verdict = Literal["left", "changed", "gone", "noted", "allowed"]
FAILURES: tuple[Verdict, ...] = ("left", "changed", "gone")
LINES = 20
"""Printed of one kind and verdict; what is more is counted."""
WIDTH = 300
"""Characters of a value in a line."""
KERNEL = 0
"""The facility of messages that the kernel itself writes."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not as before."""

    kind: str
    name: str
    before: object
    """None where it was not there; of what changed only what is different."""
    after: object
    verdict: Verdict
    reason: str = ""
    """Why it is noted or allowed."""

    @property
    def fails(self) -> bool:
        """Tell if the machine is not as before."""
        return self.verdict in FAILURES

    def __str__(self) -> str:
        values = [_short(v) for v in (self.before, self.after) if v is not None]
        line = f"{self.verdict:8} {self.kind} {_short(self.name)}: {' -> '.join(values) or 'there'}"
        return f"{line} ({self.reason})" if self.reason else line


def _short(value: object) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{k} {_short(v)}" for k, v in value.items() if v not in ("", {}, []))
    text = value if isinstance(value, str) else json.dumps(value)
    if not text.isprintable():
        text = text.encode("unicode_escape").decode()
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}..."


def _shown(kind: str, value: object) -> object:
    """Return what counts of a value: not who asks or who holds it now."""
    aside = {"process": ("asks", "cgroup"), "namespace": ("by",)}.get(kind, ())
    if aside and isinstance(value, dict):
        return {key: item for key, item in value.items() if key not in aside}
    return value


def _parts(before: object, after: object) -> tuple[object, object]:
    """Return of two values only the fields that differ."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return before, after
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return {k: before.get(k) for k in keys}, {k: after.get(k) for k in keys}


def _kind(kind: str, before: Snapshot, after: Snapshot) -> Iterator[Difference]:
    old, new = before["kinds"][kind], after["kinds"][kind]
    none: Things = {}
    modules, links = (
        set(after["kinds"].get(some, none)) - set(before["kinds"].get(some, none))
        for some in ("module", "link")
    )
    processes = before["kinds"].get("process", none) | after["kinds"].get("process", none)
    # What only one of both left out, with all below it, would seem to come or to go.
    globs = before["ignore"] + after["ignore"] if kind == "file" else []
    left_out = matcher([*globs, *(f"{glob}/**" for glob in globs)])
    for name in {**old, **new}:
        was, now = old.get(name), new.get(name)
        if _shown(kind, was) == _shown(kind, now) or left_out(name):
            continue
        verdict: Verdict = "left" if was is None else "gone" if now is None else "changed"
        told = _parts(_shown(kind, was), _shown(kind, now))
        why = allowed.reason(kind, name, was if now is None else now, was, processes)
        note = (
            allowed.noted(kind, name, now, modules, links) if not why and verdict == "left" else ""
        )
        if why or note:
            verdict = "allowed" if why else "noted"
        yield Difference(kind, name, *told, verdict, why or note)


def _messages(old: Things, new: Things) -> Iterator[Difference]:
    last = max(map(int, old), default=-1)
    first = min(map(int, new), default=last + 1)
    if first > last + 1:
        lost = f"{first - last - 1} messages"
        yield Difference("message", "overwritten before they were read", lost, None, "gone")
    for number, value in new.items():
        if int(number) <= last or not isinstance(value, dict):
            continue
        text = str(value.get("text"))
        # Level 2 and below: critical, alert, emergency.
        worst = value.get("from") == KERNEL and int(value.get("level", 7)) <= 2
        bad = worst or allowed.TROUBLE.search(text)
        yield Difference("message", number, None, text, "left" if bad else "noted")


def compare(before: Snapshot, after: Snapshot) -> list[Difference]:
    """Return all that differs, what may differ too."""
    found: list[Difference] = []
    for kind in {**before["kinds"], **after["kinds"], **before["skipped"], **after["skipped"]}:
        if kind == "message" and all(kind in taken["kinds"] for taken in (before, after)):
            found += _messages(before["kinds"][kind], after["kinds"][kind])
        elif kind in before["kinds"] and kind in after["kinds"]:
            found += _kind(kind, before, after)
        else:
            was, now = before["skipped"].get(kind), after["skipped"].get(kind)
            # What could be seen only once could have changed unseen.
            verdict: Verdict = "noted" if was and now else "changed"
            found.append(Difference(kind, "not compared", was, now, verdict))
    return found


def report(differences: Sequence[Difference], lines: int = LINES) -> str:
    """Return counts, then a line for each difference, at most `lines` of a kind and verdict."""
    counts = Counter(difference.verdict for difference in differences)
    order: tuple[Verdict, ...] = (*FAILURES, "noted", "allowed")
    failed = sum(counts[verdict] for verdict in FAILURES)
    told = ["same as before" if not failed else f"NOT as before: {failed} differences"]
    told[0] += f" ({', '.join(f'{counts[verdict]} {verdict}' for verdict in order)})"
    for verdict in order[:-1]:
        some = [difference for difference in differences if difference.verdict == verdict]
        for kind in dict.fromkeys(difference.kind for difference in some):
            same = [str(difference) for difference in some if difference.kind == kind]
            told += same[:lines]
            if len(same) > lines:
                told.append(f"{verdict:8} {kind}: and {len(same) - lines} more")
    may: dict[tuple[str, str], list[str]] = {}
    for difference in differences:
        if difference.verdict == "allowed":
            may.setdefault((difference.reason, difference.kind), []).append(_title(difference))
    for (reason, kind), names in may.items():
        some_names = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        told.append(f"allowed: {len(names)} {kind}: {some_names} ({reason})")
    return "\n".join(told)


def _title(difference: Difference) -> str:
    """Return a name that says something: of a process its command line."""
    value = difference.after or difference.before
    command = value.get("command") if isinstance(value, dict) else None
    return _short(command)[:80] if command else _short(difference.name)
