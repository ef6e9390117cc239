"""What changes in labs and runs while somebody watches: events, by comparing two looks.

A look costs what `labctl status` does; nothing in a lab is asked to tell by itself, so what comes
and goes between two looks is not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Key = tuple[str, str, str]
"""Type, lab (empty for experiments), name."""


@dataclass(frozen=True)
class State:
    """What a look found of one thing."""

    state: str
    detail: str = ""


Look = Mapping[Key, State]


def of_labs(described: Iterable[Mapping[str, Any]]) -> dict[Key, State]:
    """Return what `labctl.lab.status.describe` tells of labs, thing by thing.

    Types are `lab`, `node`, `router`, `program` and `link`; networks have no state.
    """
    found: dict[Key, State] = {}
    for lab in described:
        name = lab["name"]
        found["lab", name, name] = State(lab["state"], lab.get("problem", ""))
        for part in lab.get("parts", []):
            if not part["state"]:
                continue
            first = part["is"].split()[0]
            kind = first if first in ("router", "program") else "node"
            found[kind, name, part["name"]] = State(part["state"], part["is"])
            for interface, why in part.get("links", {}).items():
                found["link", name, f"{part['name']}:{interface}"] = State("down", why)
    return found


def between(before: Look, after: Look) -> Iterator[dict[str, Any]]:
    """Yield an event for each thing that is another than before, in the order of the look after.

    One that is gone has the state `gone`; a lost link that is whole again is `up`.
    """
    for key, now in after.items():
        was = before.get(key)
        if was != now:
            yield _event(key, now, was)
    for key, was in before.items():
        if key not in after:
            kind, lab, _ = key
            whole = kind == "link" and ("lab", lab, lab) in after
            yield _event(key, State("up" if whole else "gone"), was)


def _event(key: Key, now: State, was: State | None) -> dict[str, Any]:
    kind, lab, name = key
    return {
        "type": kind,
        "lab": lab,
        "name": name,
        "state": now.state,
        "was": was.state if was else None,
        "detail": now.detail,
    }
