"""The words that let a guest run what labctl has it do, by Perl or by Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from labctl.errors import GuestError
from labctl.kinds.observers.packet_socket import python_words
from labctl.topology.model import Node

_TALK = Path(__file__).with_name("talk.py")


def words(node: Node | None, perl: str, name: str, *more: str) -> Sequence[str]:
    """Return the words that run a program in Perl, or its twin `name` of `talk.py`, in a guest.

    Without a `node` it is one that has Perl. Raises `GuestError` where the guest has neither.
    """
    if node is None or node.scripting == "perl":
        return ("perl", "-e", perl, *more)
    if node.scripting:
        return python_words(_TALK, name, *more)
    raise GuestError(
        f"{node.name} has neither perl nor python3: labctl has no program for it",
        "install one of them in its image; or send by hand, and wait for it: labctl trace --wait",
    )
