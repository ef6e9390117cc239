"""A packet socket that asks for the virtio header, where what the kernel knows stands."""

from __future__ import annotations

import re
import shlex
import sys
from functools import cache
from pathlib import Path

from labctl.kinds.base import Look, ObserverKind


class PacketSocket(ObserverKind):
    """`observe.py` in the lab's own kernel, `observe.pl` in guests and in a dom0."""

    name = "packet-socket"
    summary = "a packet socket with the virtio header (PACKET_VNET_HDR)"

    def words(self, look: Look) -> tuple[str, ...]:
        """Return the words of the Python observer."""
        program = str(Path(__file__).with_name("observe.py"))
        where = ("--netns", look.netns) if look.netns else ()
        # Isolated and without site-packages: nothing of the user's can change it, and it is quick.
        words = (sys.executable, "-I", "-S", program, "--hop", look.hop, *where)
        return (*words, "--snap", str(look.snap), look.link)

    def guest_command(self, look: Look) -> str:
        """Return the command of the Perl observer."""
        enter = ["nsenter", f"--net=/run/netns/{look.netns}", "--"] if look.netns else []
        script = guest_script()
        return shlex.join([*enter, "perl", "-e", script, look.hop, look.link, str(look.snap)])


@cache
def guest_script() -> str:
    """Return the Perl observer, made short: an ssh server may bound a command's length."""
    text = Path(__file__).with_name("observe.pl").read_text(encoding="utf-8")
    lines = (re.sub(r"\s+# .*", "", line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#"))
