"""A packet socket that asks for the virtio header, where what the kernel knows stands."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

from labctl.kinds.base import Context, Look
from labctl.kinds.observers.frames import FrameObserver


class PacketSocket(FrameObserver):
    """`observe.py` in the lab's own kernel, `observe.pl` in guests and in a dom0."""

    name = "packet-socket"
    summary = "a packet socket with the virtio header (PACKET_VNET_HDR)"
    looks_into = tuple(Context)

    def start(self, look: Look) -> tuple[str, ...]:
        """Return the words of the Python observer, or of the one in Perl."""
        if look.context is not Context.LAB:
            enter = ("nsenter", f"--net=/run/netns/{look.netns}", "--") if look.netns else ()
            words = ("perl", "-e", guest_script(), look.hop, look.link, str(look.snap))
            return (*enter, *words)
        program = str(Path(__file__).with_name("observe.py"))
        where = ("--netns", look.netns) if look.netns else ()
        # Isolated and without site-packages: nothing of the user's can change it, and it is quick.
        words = (sys.executable, "-I", "-S", program, "--hop", look.hop, *where)
        return (*words, "--snap", str(look.snap), look.link)


@cache
def guest_script() -> str:
    """Return the Perl observer, made short: an ssh server may bound a command's length."""
    return shortened(Path(__file__).with_name("observe.pl"))


def shortened(file: Path) -> str:
    """Return a program without its comments and its indentation."""
    lines = (re.sub(r"\s+# .*", "", line).strip() for line in file.read_text("utf-8").splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#"))
