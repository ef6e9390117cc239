"""Where templates lie: saved states of guests, from which others go on (docs/clones.md).

Each has a folder named by its key, which stands for all that its clones depend on, and appears by
one rename. What an image cannot do is noted in such a folder too, so that it is not tried again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.errors import HostError, host_error
from labctl.images import cache
from labctl.sandbox import (
    atomic,
    codec,
    documents,
    lock,
    owned,
    trusted,
)
from labctl.sandbox.deadline import Deadline

NOTES = "template.json"
VERSION = 1
"""Of the notes."""
MEMORY, STATE = "memory", "state"
MOST = 12
MOST_BYTES = 4 << 30
"""Of all templates together; what was used longest ago goes."""
LOCK = ".lock"
_MAKING = ".making-"
_KEY = 32


@dataclass(frozen=True)
class Template:
    """A template, or the reason why there is none of an image."""

    key: str
    image: str
    """The image that it was made of, by its name."""
    image_digest: str
    """SHA-256; empty where the kernel or initramfs was the user's own."""
    mebibytes: int
    """Memory of its guests."""
    memory_digest: str = ""
    state_digest: str = ""
    """As `labctl.guests.saved` makes them."""
    obstacle: str = ""
    """Why guests of this image boot; empty where they can be clones."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return place(self.key)

    @property
    def size(self) -> int:
        """Bytes that it takes on the disk."""
        files = (self.folder / MEMORY, self.folder / STATE)
        with contextlib.suppress(OSError):
            return sum(file.stat().st_blocks * 512 for file in files)
        return 0


def root() -> Path:
    """Return the folder of templates."""
    return cache.root() / "templates"


def place(key: str) -> Path:
    """Return the folder of one template."""
    return root() / key


def key(parts: Sequence[str]) -> str:
    """Return the key that stands for all of `parts`."""
    text = json.dumps(list(parts))
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY]


def digest(file: Path) -> str:
    """Return the SHA-256 of a file; raises `OSError`."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def find(key: str) -> Template | None:
    """Return a template, which is then the one used last; None as `read` does."""
    found = read(place(key))
    if found:
        with contextlib.suppress(OSError):
            os.utime(found.folder)
    return found


def read(folder: Path) -> Template | None:
    """Return the template of a folder; None where it is not there, or nobody could go on from it.

    What is in its files is checked by who goes on from it.
    """
    try:
        found: Template = documents.loads(trusted.read_in(folder / NOTES), Template, NOTES, VERSION)
        if found.key != folder.name or not owned.is_made(folder):
            return None
        if not found.obstacle:
            with trusted.folder(folder) as within:
                for name in (MEMORY, STATE):
                    trusted.check_in(name, within, folder / name)
    except (OSError, codec.CodecError, HostError):
        return None
    return found


@contextlib.contextmanager
def maker(deadline: Deadline) -> Iterator[Path]:
    """Be the only maker of templates in this cache; give an empty folder for the files of one.

    What an interrupted maker left is removed first. Raises `DeadlineError` when another maker does
    not end in time, `HostError` when the cache cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            owned.claim(root())
            stack.enter_context(lock.held(root() / LOCK, deadline))
            folder = stack.enter_context(owned.temporary(root(), _MAKING))
        except OSError as error:
            raise HostError(
                f"cannot write to the cache {root()}: {error.strerror}",
                "set XDG_CACHE_HOME to a folder that you may write to",
            ) from None
        try:
            yield folder
        except OSError as error:
            raise host_error(error, root()) or error from None


def keep(folder: Path, template: Template) -> None:
    """Move a finished template from its maker's folder to its place; raises `OSError`.

    Older ones go where there are too many, and those of images that have gone.
    """
    target = template.folder
    atomic.write(folder / NOTES, documents.dumps(template, Template, NOTES, VERSION), sync=True)
    owned.remove(target)  # a damaged one
    owned.mark(folder, target)
    folder.rename(target)
    _bound(template.key)


def _bound(newest: str) -> None:
    """Remove templates of removed images, and those used longest ago beyond the bounds."""
    count = size = 0
    for one in [place(newest), *(each for each in owned.made_in(root()) if each.name != newest)]:
        found = read(one)
        gone = found is None or (
            found.image_digest and cache.find(found.image, found.image_digest) is None
        )
        count, size = count + 1, size + (found.size if found else 0)
        if one.name != newest and (gone or count > MOST or size > MOST_BYTES):
            owned.remove(one)


def listed() -> list[Template]:
    """Return the templates there are, the one used last first."""
    found = [read(folder) for folder in owned.made_in(root())]
    return [one for one in found if one]


def remove(image: str | None = None) -> list[str]:
    """Remove the templates of an image, or all there are; return their names.

    Guests that go on from them keep what they have.
    """
    gone = []
    for folder in owned.made_in(root()):
        found = read(folder)
        wanted = image is None or (found and cache.is_of(found.image, image))
        if wanted and owned.remove(folder):
            gone.append(f"template {folder.name}")
    return gone


def forget(key: str) -> None:
    """Remove a template that is not what was saved."""
    owned.remove(place(key))
