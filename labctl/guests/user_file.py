"""What a user wants of a guest's cloud-init, put together with what labctl tells it."""

from __future__ import annotations

import json
from email import message_from_string
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path
from typing import Any

from labctl.errors import UsageError, shown
from labctl.topology import text
from labctl.topology.model import Node

HEADER = "#cloud-config\n"
MAX_BYTES = 1 << 20
_OWN = ("ssh_keys", "ssh_deletekeys", "disable_root", "preserve_hostname")
"""What nobody else sets: without them labctl does not get into the guest, or into another one."""
_MIME = ("content-type:", "mime-version:")


def merged(own: dict[str, Any], node: Node) -> str:
    """Return labctl's `own` cloud-config with what a node's user wants, as cloud-init reads it.

    Mappings are merged, lists put behind labctl's, other values are the user's, but nothing takes
    the place of a mapping or a list of labctl's. What is no cloud-config (a script, parts of
    several kinds) goes along as a part of its own. Raises `UsageError` for a file that cannot be
    read, and for what only labctl sets, or sets as well.
    """
    if node.user_data_file:
        return _with_file(own, node.user_data_file)
    theirs = json.loads(node.user_data) if node.user_data else {}
    return _config(_merge(own, theirs, f"the user_data of {node.name}"))


def _with_file(own: dict[str, Any], file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise UsageError(f"{file} has more than {MAX_BYTES >> 20} MiB", "name a smaller file")
    try:
        written = text.decode(content)
    except text.NotTextError as error:
        raise UsageError(f"{file}:{error.line}:{error.column}: {error}") from None
    if written.startswith(HEADER.strip()):
        root, problems = text.read(written, str(file))
        for problem in problems:
            place = f"{problem.file}:{problem.line}:{problem.column}"
            raise UsageError(f"{place}: {problem.message}", problem.hint)
        plain = root.plain() if root else {}
        if not isinstance(plain, dict):
            raise UsageError(f"{file} is not a mapping of keys to values")
        return _config(_merge(own, plain, str(file)))
    whole = MIMEMultipart(boundary="==labctl==")
    whole.attach(MIMEText(_config(own), "cloud-config"))
    if written.lower().startswith(_MIME):
        for part in message_from_string(written).walk():
            if not part.is_multipart():
                whole.attach(part)
    else:
        # cloud-init goes by the first line of plain text, such as #!/bin/sh.
        whole.attach(MIMEText(written, "plain"))
    return whole.as_string()


def _config(content: dict[str, Any]) -> str:
    return HEADER + json.dumps(content, indent=1)


def _merge(own: dict[str, Any], theirs: dict[str, Any], where: str) -> dict[str, Any]:
    for key in _OWN:
        if key in theirs:
            raise UsageError(
                f"{where} sets {shown(key)}, by which labctl gets into the guest",
                "leave it away",
            )
    return _merged(own, theirs, where)


def _merged(own: dict[str, Any], theirs: dict[str, Any], where: str) -> dict[str, Any]:
    result = dict(own)
    for key, value in theirs.items():
        mine = own.get(key)
        if isinstance(mine, dict) and isinstance(value, dict):
            result[key] = _merged(mine, value, where)
        elif isinstance(mine, list) and isinstance(value, list):
            result[key] = [*mine, *value]
        elif isinstance(mine, dict | list):  # what labctl needs would be gone
            what = "list" if isinstance(mine, list) else "mapping"
            raise UsageError(
                f"{shown(key)} of {where} is no {what}",
                f"write a {what}, or leave the key out",
            )
        else:
            result[key] = value
    return result
