"""Puts man pages and completions into the wheel, where `make dist` has made them.

They are made of the command line, which takes all that labctl needs; whoever builds a wheel from
source only, as pip does, need not have that, and gets a wheel without them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Hook(BuildHookInterface[Any]):
    """Adds the files of the folder `share`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files, unless the environment is to point into the checkout."""
        share = Path(self.root) / "share"
        if version == "editable" or not share.is_dir():
            return
        for file in sorted(share.rglob("*")):
            if file.is_file():
                build_data["shared_data"][str(file)] = str(Path("share") / file.relative_to(share))
