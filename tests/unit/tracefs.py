"""A directory that looks like the kernel's tracefs to shell text: instances come with events."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

FORMAT = 'print fmt: "x", { 2, "NOT_SPECIFIED" }, { 0x5, "TCP_CSUM" }, { 71, "UDP_CSUM" }'

_AS_THE_KERNEL = """
mkdir() { command mkdir "$1" && cp -r "$TREE/." "$1"; }
rmdir() { rm -r "$1"; }
"""


class Tracefs:
    """Runs shell text against a folder in tracefs' place."""

    def __init__(self, folder: Path, fmt: str = FORMAT, *, tells: bool = True) -> None:
        """Prepare a folder; a kernel that does not tell of drops has no such event."""
        self._folder = folder
        self._tree = folder / "tree"
        (folder / "instances").mkdir(parents=True)
        events = ["net/netif_receive_skb", *(["skb/kfree_skb"] if tells else [])]
        for event in events:
            path = self._tree / "events" / event
            path.mkdir(parents=True)
            (path / "enable").write_text("")
            (path / "format").write_text(fmt)

    def run(self, text: str) -> str:
        """Run shell text, return what it printed; raises `CalledProcessError` where it fails."""
        text = _AS_THE_KERNEL + text.replace("/sys/kernel/tracing", str(self._folder))
        env = {**os.environ, "TREE": str(self._tree)}
        done = subprocess.run(["sh", "-c", text], check=True, env=env, stdout=subprocess.PIPE)
        return done.stdout.decode()

    def instances(self) -> list[str]:
        """Return the names of the instances there are."""
        return sorted(path.name for path in (self._folder / "instances").iterdir())
