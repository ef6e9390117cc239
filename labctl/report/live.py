"""The page of a running lab: what it is made of, and how each part is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from labctl.report import graph, graph_svg, page
from labctl.topology.model import Topology
from labctl.version import __version__


def render(described: Mapping[str, Any], topology: Topology) -> str:
    """Return the page of a lab, of what `labctl.lab.status.describe` says and its topology."""
    parts = described.get("parts", [])
    states = {part["name"]: part["state"] for part in parts if part["state"]}
    wrong = [part for part in parts if part["state"] not in ("running", "") or part.get("links")]
    return page.template("lab.html.j2").render(
        lab=described,
        headline=_headline(described, [part["name"] for part in wrong]),
        at=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        broken=bool(wrong),
        # All text in it is escaped where it is drawn.
        figures=(),
        drawing=Markup(graph_svg.draw(graph.of(topology, states))),
        parts=parts,
        interfaces=[(part["name"], one) for part in parts for one in part.get("interfaces", [])],
        made_by=__version__,
    )


def _headline(described: Mapping[str, Any], wrong: list[str]) -> str:
    if wrong:
        return f"{described['name']} is up, but not all of it runs: {', '.join(wrong)}"
    return f"{described['name']} is {described['state']}"
