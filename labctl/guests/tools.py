"""What there is in a guest to work with: asked once, by its first command, and kept in the lab."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from labctl.sandbox import atomic
from labctl.topology.guest_tools import PROGRAMS, GuestTools

FOLDER = "tools"
"""Of a lab: a file a guest, with what its first command said."""
_HAS, _LACKS = "labctl: has ", "labctl: lacks "
_LONGEST = 4096
QUESTION = (
    f'for i in {" ".join(PROGRAMS)}; do ! command -v $i >/dev/null 2>&1 || echo "{_HAS}$i"; done'
)
"""Words of a POSIX shell; they start no program."""


def question_of_unknown(nics: Iterable[tuple[str, str]]) -> str:
    """Return the words for a guest that labctl did not configure, of its `nics` (name, MAC).

    Who is not root cannot observe there; what has another name there is not found.
    """
    lines = [QUESTION, f'[ "$(id -u)" = 0 ] || echo "{_LACKS}root"']
    for name, mac in nics:
        lines.append(f"m=; [ ! -r /sys/class/net/{name}/address ] ||")
        lines.append(f'read -r m </sys/class/net/{name}/address; [ "$m" = {mac} ] ||')
        lines.append(f'echo "{_LACKS}{name}"')
    return "\n".join(lines)


def parse(said: str) -> GuestTools:
    """Read what a guest answered; lines that it was not asked for are passed over."""
    lines = said[:_LONGEST].splitlines()
    has = [line.removeprefix(_HAS).strip() for line in lines if line.startswith(_HAS)]
    lacks = [line.removeprefix(_LACKS).strip() for line in lines if line.startswith(_LACKS)]
    why_not = ""
    if "root" in lacks:
        why_not = "who logs in is not root"
    elif names := [one for one in lacks if one.isalnum()]:
        why_not = f"its {names[0][:15]} has another name there"
    return GuestTools(tuple(one for one in PROGRAMS if one in has), why_not)


def keep(directory: Path, name: str, said: str) -> None:
    """Keep what a guest's first command said in the lab's folder; raises `OSError`."""
    folder = directory / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    atomic.write(folder / name, said[:_LONGEST])


def found(directory: Path, name: str) -> GuestTools | None:
    """Return what was found in a guest; None where it has not been asked."""
    try:
        return parse((directory / FOLDER / name).read_text())
    except OSError:
        return None
