"""The shape of `image:` where it is a mapping: a disk image, as a pydantic model."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from labctl.errors import shown
from labctl.topology import disk_image, fields

MAX_URL = 2000
"""Characters."""
_DIGEST = re.compile("[0-9a-f]{64}")


def _text(value: object, what: str, example: str) -> str:
    if not isinstance(value, str):
        fields.refuse(f"{what} must be text such as {example}")
    return value


def _url(value: object) -> str:
    text = _text(value, "url", "https://example.net/disk.qcow2")
    if len(text) > MAX_URL:
        fields.refuse(f"a URL has at most {MAX_URL} characters, not {len(text)}")
    if not text.isascii() or not text.isprintable() or " " in text:
        hint = "write other characters than ASCII's as %XX"
        fields.refuse(f"{shown(text)} is not a URL", hint)
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, half of an IPv6 address
        known = False
    if not known:
        fields.refuse(f"{shown(text)} is not a URL", "write https://HOST/PATH, or http:")
    if parts.username is not None:
        hint = "records and locks would show it: download it yourself, and write file: PATH"
        fields.refuse("a URL that names a user or a password is not taken", hint)
    return parts._replace(fragment="").geturl()


def _sha256(value: object) -> str:
    text = _text(value, "sha256", "'9f86d081…', in quotes").lower()
    if not _DIGEST.fullmatch(text):
        fields.refuse(f"{shown(text)} is not a SHA-256", "write its 64 hexadecimal digits")
    return text


Url = Annotated[
    str,
    PlainValidator(_url),
    WithJsonSchema({"type": "string", "maxLength": MAX_URL, "pattern": "^https?://[!-~]+$"}),
]
Sha256 = Annotated[
    str,
    PlainValidator(_sha256),
    WithJsonSchema({"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}),
]


class DiskImage(BaseModel):
    """A disk image that the guest boots from; it is never written to, each guest has an overlay.

    It has a url or a file. One that is compressed (.xz, .gz, .zst) is decompressed.
    """

    model_config = ConfigDict(
        **fields.STRICT,
        json_schema_extra={"oneOf": [{"required": ["url"]}, {"required": ["file"]}]},
    )

    url: Url | None = None
    """Where it is downloaded from, once: https://… or http://…"""
    file: fields.File | None = None
    """A file of your own; a path relative to this file."""
    sha256: Sha256 | None = None
    """The digest of the file as it is downloaded. A url without one needs a lock, which
    `labctl image lock FILE` writes."""
    format: disk_image.Format | None = None
    """What its bytes mean; needed where its name does not end in the format's."""
    firmware: disk_image.Firmware = Field(default="bios")
    """What starts its boot loader."""

    @property
    def source(self) -> str:
        """The URL or the file."""
        return self.url or self.file or ""

    @property
    def known_format(self) -> disk_image.Format | None:
        """The format that was written, or that the name tells."""
        return self.format or disk_image.told_format(self.source)

    @model_validator(mode="after")
    def _fits(self) -> DiskImage:
        if bool(self.url) == bool(self.file):
            what = "both a url and a file" if self.url else "neither a url nor a file"
            fields.refuse(f"this image has {what}", "write one of them")
        if not self.known_format:
            name = shown(disk_image.file_name(self.source))
            hint = "write format: qcow2, raw, vmdk or vhdx; qemu-img info FILE tells it"
            fields.refuse(f"the name {name} does not tell the image's format", hint)
        return self
