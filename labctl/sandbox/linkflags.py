"""Print the flags of every link of the network namespace this runs in, by name, as JSON.

A program of its own with nothing but the standard library, run as `python -I -S linkflags.py`: it
answers sooner than an agent starts. sysfs would show the links of whoever mounted it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import socket
import struct
import sys

SIOCGIFFLAGS = 0x8913
IFF_UP = 0x1
IFF_RUNNING = 0x40
"""It has a carrier and is operational (netdevice(7))."""


def read() -> dict[str, int]:
    """Return the flags of each link."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anything:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it went meanwhile
                request = struct.pack("16sh14x", name.encode(), 0)
                answer = fcntl.ioctl(anything, SIOCGIFFLAGS, request)
                found[name] = struct.unpack("16sH14x", answer)[1]
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(read()))
