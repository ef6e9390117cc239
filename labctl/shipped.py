"""Where the files that come with labctl lie: topologies and image recipes.

In a checkout (and an editable install) they are the repository's own folders; a wheel carries
copies of them inside the package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from labctl.errors import HostError

_PACKAGE = Path(__file__).resolve().parent


def folder(kind: Literal["topologies", "images"]) -> Path:
    """Return the folder of the shipped files of this kind.

    Raises `HostError` where the installation lacks it.
    """
    for candidate in (_PACKAGE / "_shipped" / kind, _PACKAGE.parent / kind):
        if candidate.is_dir():
            return candidate
    raise HostError(
        f"this installation of labctl has no {kind} (looked beside {_PACKAGE})",
        "install labctl again from its repository or from a wheel",
    )
