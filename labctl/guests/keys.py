"""SSH keys made for one lab: nothing secret is ever in an image or outlives its lab."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass, field

KIND = b"ssh-ed25519"


def _string(value: bytes) -> bytes:
    """Encode a string of the SSH wire format (RFC 4251, section 5)."""
    return struct.pack(">I", len(value)) + value


@dataclass(frozen=True)
class Key:
    """An Ed25519 key in the forms that OpenSSH and dropbear read; shown, it is its public half."""

    openssh: str = field(repr=False)
    """The private key, PEM-like text for `ssh -i`."""
    public: str
    """`ssh-ed25519 AAAA…`, one line without a comment."""
    dropbear: str = field(repr=False)
    """The private key file of dropbear: the kind, then seed and public key, base64."""

    @classmethod
    def make(cls) -> Key:
        """Make a new key."""
        # Here: whoever only reads a lab's state makes no keys.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
            PublicFormat,
        )

        private = Ed25519PrivateKey.generate()
        seed = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        text = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        wire = base64.b64encode(_string(KIND) + _string(public)).decode()
        return cls(
            openssh=text.decode(),
            public=f"{KIND.decode()} {wire}",
            dropbear=base64.b64encode(_string(KIND) + _string(seed + public)).decode(),
        )
