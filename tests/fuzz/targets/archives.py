"""Runs of somebody else's, each as one file, until they lie among the records or are refused."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any

from labctl.results.archive import MANIFEST, ROOT, bring_in, export
from report_records import record

from ..mutate import changed
from ..scratch import file_of, folder
from ..target import Target, WrongError

WORDS = [
    ROOT, MANIFEST, "result.json", "captures/x.pcapng", "console/vm1.log", "..", "/etc/passwd",
    "running", "sha256", "size", "files", "format", "\x1b[31m", "ustar", "././@LongLink",
]  # fmt: skip
TOKENS = [*(word.encode() for word in WORDS), bytes(512), b"\0", b"7777777", b"\x80" + bytes(10)]


def check(data: bytes) -> None:
    """Import a file; what is taken is in one folder, and whatever is refused leaves nothing."""
    here = folder() / "imported"
    shutil.rmtree(here, ignore_errors=True)
    file = file_of(data, "run.tar")
    before = {path.name for path in here.parent.iterdir()}
    try:
        name, _ = bring_in(file, here)
        wanted = {name}
    except Exception:
        wanted = set()
        raise
    finally:
        found = {path.name for path in here.iterdir()} if here.exists() else set()
        if found != wanted or {path.name for path in here.parent.iterdir()} - before - {here.name}:
            raise WrongError(f"something lies where it should not: {found}")


@cache
def sound() -> tuple[bytes, dict[str, bytes]]:
    """Return an exported run, and its files."""
    run = record(folder() / "exported", versions=(4,), topology=False)
    export(run, folder() / "sound.tar")
    data = (folder() / "sound.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        files = {}
        for one in opened.getmembers():
            content = opened.extractfile(one)
            files[one.name] = content.read() if content else b""
    return data, files


def seeds() -> Sequence[bytes]:
    """A sound one."""
    return [sound()[0]]


def make(rng: Random) -> bytes:
    """Make an archive of changed members, whose list may fit them; or change any bytes of one."""
    if rng.random() < 0.3:
        return changed(rng, sound()[0], TOKENS)
    files = dict(sound()[1])
    told: dict[str, Any] = json.loads(files.pop(f"{ROOT}/{MANIFEST}"))
    members = [(name, tarfile.REGTYPE, data) for name, data in files.items()]
    for _ in range(rng.randrange(3)):
        name = f"{rng.choice([ROOT, '', '..'])}/{rng.choice(WORDS)}"
        kind = rng.choice([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
        members.insert(
            rng.randrange(len(members) + 1), (name, kind, rng.randbytes(rng.randrange(9)))
        )
    if rng.random() < 0.7:
        told["files"] = {
            name.removeprefix(f"{ROOT}/"): {
                "size": len(data), "sha256": hashlib.sha256(data).hexdigest()
            }
            for name, _, data in members
        }  # fmt: skip
    text = json.dumps(told).encode()
    if rng.random() < 0.3:
        text = changed(rng, text, TOKENS)
    members.insert(
        rng.choice([0, 0, 0, len(members)]), (f"{ROOT}/{MANIFEST}", tarfile.REGTYPE, text)
    )
    return _packed(members)


def _packed(members: Sequence[tuple[str, bytes, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, data in members:
            one = tarfile.TarInfo(name)
            one.type, one.linkname = kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
            one.size = len(data) if kind == tarfile.REGTYPE else 0
            archive.addfile(one, io.BytesIO(data) if one.size else None)
    return out.getvalue()


TARGET = Target(
    "archives",
    "runs of other machines as files",
    10**5,
    ("labctl.results", "labctl.lab.tar_stream"),
    seeds,
    make,
    check,
    words=WORDS,
    longest=65536,
)
