"""A packet socket that asks for the virtio header, where what the kernel knows stands."""

from __future__ import annotations

import base64
import re
import sys
import zlib
from functools import cache
from pathlib import Path

from labctl.kinds.base import Context, Look
from labctl.kinds.observers import tcpdump
from labctl.kinds.observers.frames import FrameObserver
from labctl.kinds.observers.stream import StreamParser

_PROGRAM = Path(__file__).with_name("observe.py")


class PacketSocket(FrameObserver):
    """`observe.py` in the lab's own kernel, `observe.pl` in guests and in a dom0.

    In a guest without Perl it is `observe.py` too, and tcpdump where there is no Python either.
    """

    name = "packet-socket"
    summary = "a packet socket with the virtio header (PACKET_VNET_HDR)"
    looks_into = tuple(Context)

    def start(self, look: Look) -> tuple[str, ...]:
        """Return the words of the Python observer, or of the one in Perl."""
        if look.program == "tcpdump":
            return tcpdump.words(look)
        if look.program == "python3":
            return python_words(_PROGRAM, "--hop", look.hop, "--snap", str(look.snap), look.link)
        if look.context is not Context.LAB:
            enter = ("nsenter", f"--net=/run/netns/{look.netns}", "--") if look.netns else ()
            words = ("perl", "-e", guest_script(), look.hop, look.link, str(look.snap))
            return (*enter, *words)
        program = str(_PROGRAM)
        where = ("--netns", look.netns) if look.netns else ()
        # Isolated and without site-packages: nothing of the user's can change it, and it is quick.
        words = (sys.executable, "-I", "-S", program, "--hop", look.hop, *where)
        return (*words, "--snap", str(look.snap), look.link)

    def reader_of(self, look: Look) -> type[StreamParser]:
        """Return what reads the stream of a look: tcpdump writes another one."""
        return tcpdump.TcpdumpParser if look.program == "tcpdump" else StreamParser


def python_words(program: Path, *words: str) -> tuple[str, ...]:
    """Return the words that run a program of labctl's, a file, by a guest's Python."""
    return packed_python(program.read_text("utf-8"), *words)


def packed_python(program: str, *words: str) -> tuple[str, ...]:
    """Return the words that run a program, its text, by a guest's Python.

    It is packed, as an ssh server may bound a command's length.
    """
    packed = base64.b85encode(zlib.compress(program.encode(), 9)).decode()
    line = f"import base64,zlib;exec(zlib.decompress(base64.b85decode({packed!r})))"
    return ("python3", "-I", "-S", "-c", line, *words)


@cache
def guest_script() -> str:
    """Return the Perl observer, made short: an ssh server may bound a command's length."""
    return shortened(Path(__file__).with_name("observe.pl"))


def shortened(file: Path) -> str:
    """Return a program without its comments and its indentation."""
    lines = (re.sub(r"\s+# .*", "", line).strip() for line in file.read_text("utf-8").splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#"))
