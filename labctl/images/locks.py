"""Locks: packages of the Debian archive, pinned, and how files of theirs are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from labctl.errors import UsageError
from labctl.topology import text
from labctl.topology.tree import MAX_BYTES

_STRICT = ConfigDict(extra="forbid", frozen=True)


class LockedPackage(BaseModel):
    """One package, pinned."""

    model_config = _STRICT

    name: str
    version: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(gt=0)
    """Bytes of the .deb."""
    path: str = Field(pattern="^pool/[^:]+[.]deb$")
    """Its path in the archive, whatever the mirror."""


class Lock(BaseModel):
    """Every package of a recipe, or of a kernel alone, pinned."""

    model_config = _STRICT

    archive: Literal["debian"]
    suite: str
    """That of the kernel."""
    kernel: str
    """The kernel package that was asked for."""
    kernel_package: str
    """The package that holds the kernel, or names those that do."""
    kernel_parts: list[str] = []
    """The packages that hold the kernel and its modules, where those are several."""
    packages: list[LockedPackage]

    @property
    def of_kernel(self) -> list[str]:
        """The names of the kernel's packages."""
        return [self.kernel_package, *self.kernel_parts]

    def with_kernel(self, release: Lock) -> Lock:
        """Return it with the kernel of another lock in place of its own."""
        others = [one for one in self.packages if one.name not in self.of_kernel]
        return release.model_copy(
            update={
                "kernel": self.kernel,
                "packages": [
                    *others,
                    *(p for p in release.packages if p.name in release.of_kernel),
                ],
            }
        )

    def content(self) -> dict[str, Any]:
        """Return what of it decides a digest: what it does not say is no part of that."""
        return self.model_dump(exclude=set() if self.kernel_parts else {"kernel_parts"})


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a file by the rules and bounds of topologies: plain values, keys that are text.

    All that YAML can do besides costs errors of many kinds: dates that are none, tags that make
    objects, nesting without end.
    """
    try:
        with file.open("rb") as stream:
            content = text.decode(stream.read(MAX_BYTES + 1))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    except text.NotTextError as error:
        raise UsageError(f"{file}:{error.line}:{error.column}: {error}") from None
    root, problems = text.read(content, str(file))
    if problems or root is None:
        problem = problems[0]
        place = f"{problem.file}:{problem.line}:{problem.column}"
        raise UsageError(f"{place}: {problem.message}", problem.hint)
    plain = root.plain()
    if not isinstance(plain, dict):
        raise UsageError(f"{file} is not a mapping of fields to values")
    return plain


def first(error: ValidationError) -> str:
    """Return the first thing that is wrong as `where: what`."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}"
