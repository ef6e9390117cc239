"""The keys of a WireGuard device: the program behind the link kind `vxlan` over WireGuard.

    python -m labctl.routers.wireguard DEVICE ENDPOINT PREFIX

It gives a device its private key, and its one peer, which is at ENDPOINT and has the addresses
PREFIX. Both ends work in one folder, which nobody else can see: the one that begins makes the keys
of both and leaves the other's there. It writes `carrying` once the device is set, and waits until
it is killed: the device belongs to its namespace, not to this process.
"""

from __future__ import annotations

import argparse
import base64
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pyroute2 import WireGuard
from pyroute2.netlink.exceptions import NetlinkError

PORT = 51820
LEFT = Path("keys.json")


class Keys(NamedTuple):
    """What one end has to know, in base64."""

    private: str
    peer: str
    """The public key of the other end."""


def make() -> tuple[Keys, Keys]:
    """Make the keys of both ends."""
    one, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    mine, theirs = (
        Keys(_text(own.private_bytes_raw()), _text(peer.public_key().public_bytes_raw()))
        for own, peer in ((one, other), (other, one))
    )
    return mine, theirs


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def take() -> Keys:
    """Return the keys that were left for this end, or make both and leave the other's.

    Raises `OSError`, `ValueError` for something else in their place.
    """
    if LEFT.exists():
        found = Keys(**json.loads(LEFT.read_text()))
        LEFT.unlink()
        return found
    mine, theirs = make()
    LEFT.touch(mode=0o600, exist_ok=False)
    LEFT.write_text(json.dumps(theirs._asdict()))
    return mine


def set_up(device: str, endpoint: str, prefix: str) -> None:
    """Give a device its key and its peer; raises `OSError`."""
    keys = take()
    peer = {
        "public_key": keys.peer,
        "endpoint_addr": endpoint,
        "endpoint_port": PORT,
        "allowed_ips": [prefix],
    }
    try:
        with WireGuard() as wireguard:
            wireguard.set(device, private_key=keys.private, listen_port=PORT, peer=peer)
    except NetlinkError as wrong:
        raise OSError(wrong.code, f"WireGuard: {wrong}") from wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; it returns only where the device cannot be set."""
    words = argparse.ArgumentParser(prog="wireguard")
    for name in ("device", "endpoint", "prefix"):
        words.add_argument(name, metavar=name.upper())
    asked = words.parse_args(argv)
    try:
        set_up(asked.device, asked.endpoint, asked.prefix)
    except (OSError, ValueError, TypeError) as wrong:
        sys.stderr.write(f"cannot set {asked.device}: {wrong}\n")
        return 1
    sys.stdout.write("carrying\n")
    sys.stdout.flush()
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
