"""Guests that labctl does not configure: how to get into them, and what is asked of them then."""

from __future__ import annotations

from dataclasses import replace

from labctl.guests import secret_texts, ssh, tools
from labctl.guests.console_steps import Step
from labctl.guests.spec import Guest
from labctl.lab.machines import Making
from labctl.topology.model import Node

PATIENCE = 600.0
"""Seconds until somebody can log in, once the steps on its console are done."""
_TRIES = """\
n=0
has() {
command -v ip >/dev/null || return 0
until ip -o addr | grep -qF " $1 "; do
n=$((n + 1))
[ $n -lt 50 ] || { echo "labctl: error: its $2 has no address $1" >&2; exit 1; }
sleep 0.2
done
}"""
"""What its console was told last may still be at work."""


def guest(making: Making, node: Node, made: Guest) -> Guest:
    """Return a guest that its image configures, with how to get into it."""
    texts = secret_texts.kept(making.directory)
    if node.login:  # it may make itself another key each time it starts
        ssh.known_hosts(making.directory, node.name, node.login).unlink(missing_ok=True)
    return replace(
        made,
        ready="",
        lines="",
        patience=PATIENCE,
        settling=_addresses(node),
        question=tools.question_of_unknown((one.name, one.mac) for one in node.interfaces),
        steps=tuple(
            Step(one.expect, texts[one.secret.key] if one.secret else one.send, one.within)
            for one in node.console
        ),
        console_only=node.console_only,
        user=node.login.user if node.login else "",
    )


def _addresses(node: Node) -> str:
    """Return the shell text by which a guest tells which of its addresses is not there.

    Whatever its interfaces are called there; where it has no ip(8), nothing is told.
    """
    addresses = [(one.name, str(text)) for one in node.interfaces for text in one.addresses]
    lines = ["PATH=$PATH:/usr/sbin:/sbin", _TRIES]
    lines += [f"has '{address}' {name}" for name, address in addresses]
    return "\n".join(lines)
