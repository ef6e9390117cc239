"""The agent of a lab to come, started before anything else of it: its imports take longest."""

from __future__ import annotations

# Imported here, so that an agent that is forked has them already: its user needs them as well.
from labctl import backends
from labctl.guests import clone, driver, template
from labctl.network import links
from labctl.sandbox.client import Agent

MODULES = (
    *(module.__name__ for module in (clone, driver, links, template)),
    "libvirt",
    "pyroute2",
)
"""What the agent needs until the guests boot; its user does without the libraries."""


def start_agent(uri: str) -> Agent | None:
    """Start an agent, so that it is ready when the lab's sandbox is; None where it could not enter.

    Give it to `Lab.up` with the `uri`, or close it.
    """
    return Agent.ahead(MODULES) if backends.is_embedded(uri) else None
