"""Read what ethtool(8) and sysfs say of an interface inside a guest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from labctl.errors import GuestError
from labctl.kinds.observers.packet_socket import packed_python, shortened
from labctl.topology.features import groups

# One line of `ethtool -k`: a name, on or off, and in brackets why it is so.
LINE = re.compile(r"^\s*(?P<name>[\w.-]{1,64}): (?P<state>on|off)(?: \[(?P<why>[^]]{1,64})\])?\s*$")
MOST_FEATURES = 256
"""Linux has some sixty (NETDEV_FEATURE_COUNT)."""

VIRTIO_BITS = {
    "csum": 0,
    "guest_csum": 1,
    "guest_tso4": 7,
    "guest_tso6": 8,
    "guest_ecn": 9,
    "guest_ufo": 10,
    "host_tso4": 11,
    "host_tso6": 12,
    "host_ecn": 13,
    "host_ufo": 14,
    "mrg_rxbuf": 15,
}
"""Feature bits of a virtio network device (Virtio 1.2, section 5.1.3), as negotiated."""


@dataclass(frozen=True)
class Feature:
    """One offload feature of an interface in a guest."""

    active: bool
    fixed: bool
    requested: bool
    """What was asked for; where it differs from `active` the driver said no."""


class _Features(dict[str, Feature]):
    """Features by name; asked for one that a guest does not tell of, it says so."""

    def __missing__(self, name: str) -> Feature:
        raise GuestError(f"a guest's ethtool -k does not tell of {name}")


def parse_features(text: str) -> dict[str, Feature]:
    """Parse `ethtool -k`; raises `GuestError` when there is nothing in it."""
    found = _Features()
    for line in text.splitlines():
        if len(found) > MOST_FEATURES:
            raise GuestError(f"ethtool -k said more than {MOST_FEATURES} features")
        match = LINE.match(line)
        if not match:
            continue
        active = match["state"] == "on"
        why = match["why"] or ""
        requested = why == "requested on" if why.startswith("requested") else active
        found[match["name"]] = Feature(active, why == "fixed", requested)
    if not found:
        raise GuestError("ethtool -k said nothing that can be understood")
    return found


def stand_in() -> str:
    """Return a program for a guest without ethtool(8), in Python: -k and -K by ioctl(2)."""
    text = Path(__file__).with_name("ethtool_stand_in.py").read_text("utf-8")
    return "#!/usr/bin/env python3\n" + text.replace("GROUPS = {}", f"GROUPS = {groups()!r}", 1)


def stand_in_words(program: str, *words: str) -> tuple[str, ...]:
    """Return the words that do as ethtool(8) does, in a guest that has perl or python3 instead."""
    if program == "python3":
        return packed_python(stand_in(), *words)
    told = "; ".join(
        f"{word} {short} {' '.join(names)}" for word, (short, names) in groups().items()
    )
    script = shortened(Path(__file__).with_name("ethtool_stand_in.pl"))
    return ("perl", "-e", script, told, *words)


def parse_device(text: str) -> dict[str, bool]:
    """Parse `/sys/class/net/*/device/features`: one digit a bit, bit 0 first."""
    bits = text.strip()
    return {name: bits[bit : bit + 1] == "1" for name, bit in VIRTIO_BITS.items()}
