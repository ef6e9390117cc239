"""Debian packages taken apart, without any of their scripts and without root."""

from __future__ import annotations

import tarfile
from itertools import count
from pathlib import Path

from debian.arfile import ArError
from debian.debfile import DebError, DebFile

from labctl.errors import LabctlError
from labctl.images.tree import Entry, Tree, normal

_DULL = ("usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/lintian/")


def unpack(package: Path, stage: Path, tree: Tree) -> None:
    """Add the files and links of a .deb to `tree`; the bytes go to numbered files in `stage`.

    Numbers and not names, so that nothing in a package can point outside `stage`.
    Raises `LabctlError` when the file is not a Debian package.
    """
    stage.mkdir(parents=True, exist_ok=True)
    numbers = count(len(list(stage.iterdir())))
    try:
        with DebFile(filename=str(package)) as deb, deb.data.tgz() as data:
            for member in data:
                path = normal(member.name)
                if not path or path.startswith(_DULL):
                    continue
                if member.issym():
                    tree.add(path, Entry(0o777, link=member.linkname))
                elif member.islnk():
                    tree.add(path, tree.entries[normal(member.linkname)])
                elif member.isfile():
                    source = data.extractfile(member)
                    assert source is not None  # isfile() promises it
                    staged = stage / str(next(numbers))
                    staged.write_bytes(source.read())
                    tree.add(path, Entry(member.mode & 0o755, staged))
    except (ArError, DebError, tarfile.TarError, KeyError, EOFError) as error:
        raise LabctlError(
            f"{package.name} is not a Debian package that can be read: {error}"
        ) from None
