"""The disk by which a guest's cloud-init learns what it is: an ISO 9660 file system, `CIDATA`.

By that label the data source NoCloud finds it (cloud-init, doc/rtd/reference/datasources).
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, cast

from labctl.sandbox import atomic

LABEL = "CIDATA"
_JOLIET = 3
_ROCK_RIDGE = "1.09"


def write(place: Path, files: Mapping[str, str], owner: tuple[int, int] | None = None) -> None:
    """Write a file system with these short files, for its user alone; raises `OSError`.

    It holds keys. With an `owner` (uid, gid) it is theirs, who are a system's QEMU.
    """
    import pycdlib  # here: most labs need none

    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident=LABEL, joliet=_JOLIET, rock_ridge=_ROCK_RIDGE)
    try:
        for number, (name, text) in enumerate(files.items()):
            data = text.encode()
            # The names that count are those of the extensions: ISO 9660 knows no small letters.
            image.add_fp(
                io.BytesIO(data),
                len(data),
                f"/FILE{number}.;1",
                rr_name=name,
                joliet_path=f"/{name}",
            )
        with atomic.writing(place) as file:
            image.write_fp(cast("BinaryIO", file))  # what typeshed calls the same
            if owner is not None:
                os.fchown(file.fileno(), *owner)
    finally:
        image.close()
