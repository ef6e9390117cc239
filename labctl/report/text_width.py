"""How wide text will be on a page whose font is not known yet, and where it breaks into lines.

Widths are those of DejaVu Sans, which is as wide as a common font for screens gets (Segoe UI,
San Francisco, Roboto, Arial and Noto Sans are narrower); what it measures too wide costs a little
room, what it measured too narrow would overlap.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_REGULAR = (
    318, 401, 460, 838, 637, 951, 780, 275, 391, 391, 500, 838, 318, 361, 318, 337, 637, 637, 637,
    637, 637, 637, 637, 637, 637, 637, 337, 337, 838, 838, 838, 531, 1000, 685, 687, 699, 771, 632,
    576, 775, 752, 295, 295, 656, 558, 863, 749, 788, 604, 788, 695, 635, 611, 732, 685, 989, 686,
    611, 686, 391, 337, 391, 838, 500, 500, 613, 635, 550, 635, 616, 353, 635, 634, 278, 278, 580,
    278, 975, 634, 612, 635, 635, 412, 521, 393, 634, 592, 818, 592, 592, 525, 637, 337, 637, 838,
)  # fmt: skip
"""Advance of each character from space to tilde, in thousandths of an em."""
_BOLD = (
    349, 457, 521, 838, 696, 1002, 873, 307, 458, 458, 523, 838, 380, 416, 380, 366, 696, 696, 696,
    696, 696, 696, 696, 696, 696, 696, 400, 400, 838, 838, 838, 581, 1000, 774, 763, 734, 831, 684,
    684, 821, 837, 373, 373, 775, 638, 996, 837, 851, 733, 851, 771, 721, 683, 813, 774, 1104, 771,
    725, 726, 458, 366, 458, 838, 500, 500, 675, 716, 593, 716, 679, 436, 716, 712, 343, 343, 666,
    343, 1042, 712, 688, 716, 716, 494, 596, 479, 712, 652, 924, 646, 652, 583, 712, 366, 712, 838,
)  # fmt: skip
_WIDEST = 1104
"""Of a character that is in neither table and in no East Asian one."""

ASCENT, DESCENT = 0.93, 0.24
"""From the baseline to the top and the bottom of a line, in em."""

_PIECES = re.compile(r"[^\s\-_.:/,]*[\s\-_.:/,]+|[^\s\-_.:/,]+")


@cache
def width(text: str, size: float, *, bold: bool = False) -> float:
    """Return how wide a text is at most, in the unit of `size`."""
    table = _BOLD if bold else _REGULAR
    return sum(_letter(letter, table) for letter in text) * size / 1000


def _letter(letter: str, table: tuple[int, ...]) -> int:
    if " " <= letter <= "~":
        return table[ord(letter) - 32]
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0  # drawn over the letter before
    # UAX 11: a wide character is one em.
    return 1000 if unicodedata.east_asian_width(letter) in "WF" else _WIDEST


def cut(text: str, size: float, room: float, *, bold: bool = False) -> str:
    """Return a text that fits, with `…` in place of its end where it does not."""
    if width(text, size, bold=bold) <= room:
        return text
    while text and width(text + "…", size, bold=bold) > room:
        text = text[:-1]
    return text.rstrip() + "…"


@cache
def lines(text: str, size: float, room: float, most: int, *, bold: bool = False) -> tuple[str, ...]:
    """Break a text into at most `most` lines that fit, after a sign or a space where it can be.

    What does not fit at all ends in `…`.
    """
    found: list[str] = []
    rest = text.strip()
    while rest and len(found) + 1 < most and width(rest, size, bold=bold) > room:
        line = _first(rest, size, room, bold)
        found.append(line.rstrip())
        rest = rest[len(line) :].lstrip()
    if rest or not found:
        found.append(cut(rest, size, room, bold=bold))
    return tuple(found)


def _first(text: str, size: float, room: float, bold: bool) -> str:
    line = ""
    for piece in _PIECES.findall(text):
        if width(f"{line}{piece}".rstrip(), size, bold=bold) > room:
            break
        line += piece
    if line:
        return line
    end = 1
    while end < len(text) and width(text[: end + 1], size, bold=bold) <= room:
        end += 1
    return text[:end]
