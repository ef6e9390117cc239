"""A package outside of labctl, installed into a folder: its entry points and its modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def install(
    folder: Path,
    name: str,
    kinds: Mapping[str, str],
    modules: Mapping[str, str],
    links: Mapping[str, str] | None = None,
    observers: Mapping[str, str] | None = None,
    guests: Mapping[str, str] | None = None,
) -> None:
    """Put a distribution into a folder of the search path: its forwarders, its modules' text."""
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = {
        "forwarders": kinds,
        "links": links or {},
        "observers": observers or {},
        "guests": guests or {},
    }
    text = ""
    for group, declared in groups.items():
        lines = "\n".join(f"{kind} = {place}" for kind, place in declared.items())
        text += f"[labctl.{group}]\n{lines}\n"
    (about / "entry_points.txt").write_text(text)
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


def install_own_kinds(folder: Path) -> None:
    """Install the kinds of tests/own_kinds.py as a package of their own."""
    text = (ROOT / "tests" / "own_kinds.py").read_text()
    name = "own_kinds_package"
    install(
        folder,
        name,
        {"udp-loser": f"{name}:UdpLoser"},
        {name: text},
        links={"user-wire": f"{name}:UserWire", "veth-chain": f"{name}:VethChain"},
        observers={"packet-ring": f"{name}:PacketRing"},
        guests={"labelled": f"{name}:Labelled"},
    )
    (folder / f"{name}.md").write_text("A page of its own.\n")


def install_example(folder: Path) -> None:
    """Install the forwarder of docs/kinds.md, as the page declares it."""
    page = (ROOT / "docs" / "kinds.md").read_text()
    module, _ = re.findall(r"```python\n(.*?)```", page, re.S)
    declared = re.search(r'```toml\n.*"labctl.forwarders"]\n(\S+) = "(\S+)"\n```', page)
    assert declared
    install(folder, "walled", {declared[1]: declared[2]}, {"walled": module})
