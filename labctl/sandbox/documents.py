"""Files of labctl's own: a value, what it is, and which version of labctl's ways wrote it.

A newer labctl reads what an older one wrote: a field that is new has a default. Where that cannot
be, the version is raised, and a file of another is refused by its version.
"""

from __future__ import annotations

from typing import Any

from labctl.sandbox import codec
from labctl.sandbox.jsontext import CodecError, parse, shown, text

CODEC = 1
"""The version of how values are written, in files."""


def dumps(value: object, kind: Any, what: str, version: int) -> bytes:
    """Write the text of a file: a value of the type `kind`, what it is, and the version of that."""
    head = {"labctl": what, "version": version, "codec": CODEC}
    return text(head | {"value": codec.write(value, kind)}) + b"\n"


def loads(data: bytes, kind: Any, what: str, version: int) -> Any:
    """Read what `dumps` wrote; raises `CodecError`, also for another version."""
    if data[:1] == b"\x80":
        raise CodecError("it is a pickle, which an older labctl wrote and none reads any more")
    plain = parse(data)
    if not isinstance(plain, dict) or plain.get("labctl") != what:
        raise CodecError(f"it is not a {what} of labctl")
    for name, ours in (("codec", CODEC), ("version", version)):
        theirs = plain.get(name)
        if theirs != ours:
            newer = isinstance(theirs, int) and theirs > ours
            by = "a newer labctl" if newer else "another labctl"
            raise CodecError(f"it was written by {by} ({name} {shown(theirs)}, here {ours})")
    return codec.read(plain.get("value"), kind)
