"""A lab that outlives the process which brought it up, so that somebody can look into it."""

from __future__ import annotations

from labctl.lab.lab import Lab


def hand_over(lab: Lab) -> None:
    """Let a lab outlive this process, and let go of it: from now on only `labctl down` ends it.

    That is what `labctl up` does. Raises `LabctlError` when the lab has ended meanwhile.
    """
    lab.sandbox.keep()
    lab.close()


def commands(lab: Lab) -> list[str]:
    """Return the commands with which to look into a lab, and the one that ends it."""
    guests = [node.name for node in lab.topology.endpoints()]
    found = [f"labctl ssh --lab {lab.name} {name}" for name in guests[:1]]
    if len(guests) > 1:
        found.append(f"labctl trace --lab {lab.name} {guests[0]} {guests[1]}")
    return [*found, f"labctl down {lab.name}"]
