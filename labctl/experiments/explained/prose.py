"""What an explanation says in prose: `explain.md` in the folder of the experiment."""

from __future__ import annotations

from pathlib import Path

_FOLDERS = Path(__file__).resolve().parents[1] / "builtin"


def prose(folder: str) -> str:
    """Return the text of `builtin/FOLDER/explain.md`."""
    return (_FOLDERS / folder / "explain.md").read_text(encoding="utf-8")
