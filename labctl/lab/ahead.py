"""The agent of a lab to come, started before anything else of it: its imports take longest."""

from __future__ import annotations

from labctl.world.client import Agent

MODULES = ("labctl.guests.driver", "labctl.network.links", "libvirt", "pyroute2")
"""What the agent needs until the guests boot; by name, for this process does without."""


def start_agent() -> Agent:
    """Start an agent, so that it is ready when the lab's world is.

    Give it to `Lab.up`, or close it.
    """
    return Agent.ahead(MODULES)
