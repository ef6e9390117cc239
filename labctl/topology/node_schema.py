"""The shapes of `files:`, `exec:` and `group:`: what a node is given, and what it inherits from."""

from __future__ import annotations

import posixpath
import re
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    PlainValidator,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from labctl.errors import shown
from labctl.topology import fields

MAX_PATH = 1000
MAX_COMMAND = 10_000
"""Characters."""
MAX_COMMANDS = 256
MAX_FILES = 256
_MODE = re.compile("[0-7]{3,4}")
_NAME = re.compile("[A-Za-z][A-Za-z0-9_-]{0,62}")


def _path(text: str) -> str:
    hint = "write such as /etc/motd"
    if not text.startswith("/") or text.endswith("/"):
        fields.refuse(f"{shown(text)} is no absolute path of a file", hint)
    if len(text) > MAX_PATH or not text.isprintable() or posixpath.normpath(text) != text:
        fields.refuse(f"{shown(text)} cannot be the path of a file in a node", hint)
    return text


def _text(value: object) -> str:
    if not isinstance(value, str):
        fields.refuse("what a file holds must be text", "put it in quotes, or write it as a block")
    if "\0" in value:
        fields.refuse("a text cannot hold a zero octet", "write source: FILE")
    return value


def _mode(value: object) -> int:
    if not isinstance(value, str) or not _MODE.fullmatch(value):
        told = "a mode must be text of three or four octal digits"
        fields.refuse(f"{told}, not {shown(value)}", "put it in quotes: '755'")
    return int(value, 8)


def _command(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        fields.refuse("a command is a line of text", "put it in quotes if it looks like a mapping")
    if len(value) > MAX_COMMAND:
        fields.refuse(f"a command has at most {MAX_COMMAND} characters, not {len(value)}")
    if "\0" in value:
        fields.refuse("a command cannot hold a zero octet")
    return value


class StartFile(BaseModel):
    """A file that is written into a node, where more than its text is said."""

    model_config = fields.STRICT

    text: Annotated[str, PlainValidator(_text), WithJsonSchema({"type": "string"})] | None = None
    """What it holds."""
    source: fields.File | None = None
    """A file of this machine to copy, at most 64 MiB; a path relative to this file."""
    mode: (
        Annotated[
            int,
            PlainValidator(_mode),
            WithJsonSchema({"type": "string", "pattern": f"^{_MODE.pattern}$"}),
        ]
        | None
    ) = None
    """Its permission bits, such as '755'; '644' by default."""

    @model_validator(mode="after")
    def _one_of(self) -> StartFile:
        if (self.text is None) == (self.source is None):
            fields.refuse("a file has either a text or a source", "write one of the two")
        return self


def _group(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        hint = "letters, digits, '_' and '-', beginning with a letter, at most 63"
        fields.refuse(f"{shown(value)} cannot be a group's name", hint)
    return value


def _file(value: object, _both: object) -> str | StartFile:
    if isinstance(value, dict):
        return StartFile.model_validate(value)
    return _text(value)


Path = Annotated[
    str,
    AfterValidator(_path),
    WithJsonSchema({"type": "string", "maxLength": MAX_PATH, "pattern": "^/.*[^/]$"}),
]
Files = Annotated[
    dict[Path, Annotated[str | StartFile, WrapValidator(_file)]], Field(max_length=MAX_FILES)
]
Command = Annotated[
    str,
    PlainValidator(_command),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_COMMAND}),
]
Commands = Annotated[list[Command], Field(max_length=MAX_COMMANDS)]


GroupName = Annotated[
    str,
    PlainValidator(_group),
    WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"}),
]
