"""Letting this process become another program."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def become(words: list[str]) -> NoReturn:
    """Let this process become a program; its exit status is then ours."""
    sys.stdout.flush()
    # Python ignores both (signal(7)), and a program started in its place would do so too.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execvp(words[0], words)
