"""One run as one file: a tar archive that says first what is in it, by size and digest.

Whoever imports one has it from somebody else. So the archive is read as a stream by a reader that
believes nothing (`labctl.lab.tar_stream`): only files of the kinds that a run has, no links, all of
them announced, each as long as was said and with the digest that was said. The run appears under
its name when all of it is there, and never in the place of another.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from labctl.errors import LabctlError, UsageError, clean
from labctl.lab.tar_stream import Member, Reader, TarError
from labctl.results import store
from labctl.results.recorder import JUNIT, RESULT, TOPOLOGY, results_root
from labctl.sandbox import atomic, owned

ROOT = "labctl-run"
"""The folder that all of an archive is in."""
MANIFEST = "manifest.json"
FORMAT = 1
MOST_FILES, MOST_BYTES, MOST_MANIFEST = 10_000, 4 << 30, 8 << 20
_FILE = re.compile(
    rf"({re.escape(RESULT)}|{re.escape(JUNIT)}|{re.escape(TOPOLOGY)}"
    r"|captures/[^/]{1,200}\.pcapng|console/[^/]{1,200}\.log)"
)
"""What a run has, and nothing else is taken or given away."""
_CHUNK = 1 << 18
_HINT = "export it again: labctl results export RUN FILE"


class _About(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = Field(ge=0, le=MOST_BYTES)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: int
    id: str
    files: dict[str, _About] = Field(max_length=MOST_FILES)


def export(run: Path, file: Path) -> int:
    """Write the run in folder `run` to a file; return how many files it has.

    Raises `LabctlError` for a run without a result, and where it cannot be read or written.
    """
    summary = store.at(run)
    if summary.run is None:
        raise LabctlError(f"{run} has no result to export: {summary.problem or summary.state}")
    try:
        names = sorted(_files(run))
        about = {name: _about(run / name) for name in names}
        manifest = _Manifest(format=FORMAT, id=summary.run.id, files=about)
        text = manifest.model_dump_json(indent=2).encode()
        with (
            atomic.writing(file, atomic.public()) as out,
            tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            archive.addfile(_member(MANIFEST, len(text)), io.BytesIO(text))
            for name in names:
                with store.open_file(run / name) as data:
                    archive.addfile(_member(name, about[name].size), data)
    except OSError as wrong:
        what = f"{run} cannot be exported: {wrong.strerror or wrong}"
        raise LabctlError(what, "free some space or name another file") from None
    except ValueError as wrong:  # a name that ustar cannot hold
        raise LabctlError(f"{run} cannot be exported: {wrong}") from None
    return len(names)


def _files(run: Path) -> Iterator[str]:
    """Yield the names of a run's files; what else lies in its folder is nobody's to send on."""
    for place in (run, run / "captures", run / "console"):
        if not place.is_dir() or place.is_symlink():
            continue
        for path in place.iterdir():
            name = str(path.relative_to(run))
            if _FILE.fullmatch(name) and path.is_file() and not path.is_symlink():
                yield name


def _about(path: Path) -> _About:
    with store.open_file(path) as file:
        digest, size = hashlib.sha256(), 0
        while data := file.read(_CHUNK):
            digest.update(data)
            size += len(data)
    return _About(size=size, sha256=digest.hexdigest())


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(f"{ROOT}/{name}")
    member.size, member.mode = size, 0o644
    return member


def bring_in(file: Path, root: Path | None = None) -> tuple[str, bool]:
    """Import a run from a file that was exported; return its id, and whether it is new here.

    Raises `LabctlError` for what is no such file, is damaged, or is not what it says; then nothing
    of it stays. A run of that id with the same record is left as it is; with another, `UsageError`.
    """
    folder = results_root(root)
    try:
        owned.make_folders(folder)
        with store.open_file(file) as stream, owned.temporary(folder, ".importing-") as staging:
            run = staging / "run"
            run.mkdir()
            manifest = _unpack(stream, run)
            found = store.at(run, manifest.id)
            if found.run is None:
                raise _wrong(f"its record cannot be used: {found.problem or found.state}")
            target = folder / manifest.id
            if target.exists():
                if (target / RESULT).read_bytes() == (run / RESULT).read_bytes():
                    return manifest.id, False
                what = f"another run is called {manifest.id} in {folder}"
                raise UsageError(what, "import it elsewhere: --results DIR")
            run.rename(target)
            return manifest.id, True
    except TarError as wrong:
        raise _wrong(wrong.message) from None
    except OSError as wrong:
        what = f"{file} cannot be imported into {folder}: {wrong.strerror or wrong}"
        raise LabctlError(what, "see that both can be read and written") from None


def _unpack(stream: BinaryIO, run: Path) -> _Manifest:
    reader = Reader(stream, ROOT)
    members = (one for one in reader.members() if not one.is_folder)
    manifest = _manifest(reader, next(members, None))
    left = dict(manifest.files)
    for member in members:
        name = "/".join(member.path[1:])
        about = left.pop(name, None)
        if about is None or member.size != about.size:
            raise _wrong(f"{clean(name[:100])} is not what its list of files says")
        _write(reader, run / name, about)
    if reader.skipped or left:
        missing = f"{clean(next(iter(left))[:100])} is missing" if left else "it holds links"
        raise _wrong(missing)
    return manifest


def _manifest(reader: Reader, first: Member | None) -> _Manifest:
    if first is None or first.path != (ROOT, MANIFEST) or first.size > MOST_MANIFEST:
        raise _wrong("it does not begin with a list of its files")
    try:
        manifest = _Manifest.model_validate_json(b"".join(reader.data()))
    except (ValidationError, RecursionError):
        raise _wrong("its list of files cannot be read") from None
    if manifest.format != FORMAT:
        raise _wrong(f"it has format {manifest.format}, this labctl reads {FORMAT}")
    if not store.is_id(manifest.id):
        raise _wrong("it names no run")
    odd = [name for name in manifest.files if not _FILE.fullmatch(name) or "\0" in name]
    if odd:
        raise _wrong(f"{clean(odd[0][:100])} is no file of a run")
    if sum(one.size for one in manifest.files.values()) > MOST_BYTES:
        raise _wrong(f"it is more than {MOST_BYTES >> 30} GiB")
    return manifest


def _write(reader: Reader, path: Path, about: _About) -> None:
    path.parent.mkdir(exist_ok=True)
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for data in reader.data():
            digest.update(data)
            file.write(data)
    if digest.hexdigest() != about.sha256:
        raise _wrong(f"{clean(path.name)} is damaged: its digest is another one")


def _wrong(what: str) -> LabctlError:
    return LabctlError(f"this is no exported run of labctl's: {what}", _HINT)
