"""What stands in for ethtool(8) in a guest that has none, but has Python: its options -k and -K.

It asks the kernel by ioctl(2), as ethtool does where there is no netlink. The Python of an old
distribution runs it too, so it is written for 3.4. What `GROUPS` is in a guest is written there
when it is put into one (`ethtool.stand_in`).
"""

import array
import fcntl
import socket
import struct
import sys

# linux/sockios.h, linux/ethtool.h
SIOCETHTOOL = 0x8946
GSTRINGS, GSSET_INFO, GFEATURES, SFEATURES = 0x1B, 0x37, 0x3A, 0x3B
SS_FEATURES = 4
NAME = 32
GROUPS = {}  # type: dict[str, tuple[str, list[str]]]
"""By the long word of a group of features its short one, and the kernel's names for its own."""


def ask(name, request):
    # type: (str, bytes) -> bytes
    """Return what the kernel makes of a request to an interface; raises OSError."""
    data = array.array("B", request)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        words = struct.pack("16sP16x", name.encode(), data.buffer_info()[0])
        fcntl.ioctl(any_socket, SIOCETHTOOL, words)
    return data.tobytes()


def read(name):
    # type: (str) -> tuple[int, dict[str, tuple[int, ...]]]
    """Return how many blocks of features there are, and the features by the kernel's names.

    Of each that is its block, its bit, and the words that the kernel has: `available`, `requested`,
    `active` and `never_changed` (struct ethtool_get_features_block), each 0 or 1.
    """
    count = struct.unpack_from("I", ask(name, struct.pack("IIQI", GSSET_INFO, 0, 16, 0)), 16)[0]
    asked = struct.pack("III", GSTRINGS, SS_FEATURES, count) + bytes(NAME * count)
    text = ask(name, asked)[12:]
    blocks = (count + 31) // 32
    bits = ask(name, struct.pack("II", GFEATURES, blocks) + bytes(16 * blocks))
    found = {}  # type: dict[str, tuple[int, ...]]
    for index in range(count):
        feature = text[NAME * index : NAME * (index + 1)].split(b"\0")[0].decode()
        block, bit = index // 32, index % 32
        words = struct.unpack_from("4I", bits, 8 + 16 * block)
        if feature:
            found[feature] = (block, bit) + tuple(word >> bit & 1 for word in words)  # noqa: RUF005
    return blocks, found


def line(name, several):
    # type: (str, list[tuple[int, ...]]) -> str
    """Return what ethtool says of features: on or off, and why."""
    states = [(active, requested, not available or never)
              for _, _, available, requested, active, never in several]  # fmt: skip
    active = any(state[0] for state in states)
    text = name + ": " + ("on" if active else "off")
    if all(state[2] for state in states):
        return text + " [fixed]"
    if len(states) == 1 and states[0][0] != states[0][1]:
        return text + " [requested " + ("on" if states[0][1] else "off") + "]"
    return text


def show(name):
    # type: (str) -> None
    """Say which features an interface has, as `ethtool -k`."""
    _, found = read(name)
    sys.stdout.write("Features for " + name + ":\n")
    grouped = set()  # type: set[str]
    for word, (_, kernel) in GROUPS.items():
        there = [one for one in kernel if one in found]
        grouped.update(there)
        if there:
            sys.stdout.write(line(word, [found[one] for one in there]) + "\n")
        if len(kernel) > 1:
            for one in there:
                sys.stdout.write("\t" + line(one, [found[one]]) + "\n")
    for one in found:
        if one not in grouped:
            sys.stdout.write(line(one, [found[one]]) + "\n")


def change(name, words):
    # type: (str, list[str]) -> int
    """Set features of an interface, as `ethtool -K`; return the exit status."""
    blocks, found = read(name)
    short = {}  # type: dict[str, list[str]]
    for word, (other, kernel) in GROUPS.items():
        short[word] = short[other] = kernel
    valid = {}  # type: dict[int, int]
    wanted = {}  # type: dict[int, int]
    for word, value in zip(words[::2], words[1::2]):  # noqa: B905 - not in 3.4
        for one in short.get(word, [word]):
            block, bit, available, _, _, never = found.get(one, (0, 0, 0, 0, 0, 1))
            if available and not never:
                valid[block] = valid.get(block, 0) | 1 << bit
                off = wanted.get(block, 0) & ~(1 << bit)
                wanted[block] = off | (value == "on") << bit
    if not valid:
        sys.stderr.write("Could not change any device features\n")
        return 1
    # All blocks, or the kernel takes none (ethtool_set_features, net/ethtool/ioctl.c).
    request = struct.pack("II", SFEATURES, blocks)
    for block in range(blocks):
        request += struct.pack("II", valid.get(block, 0), wanted.get(block, 0))
    ask(name, request)
    return 0


def main(words):
    # type: (list[str]) -> int
    """Do what the words say; return the exit status."""
    if len(words) == 2 and words[0] in ("-k", "--show-features"):
        show(words[1])
        return 0
    if len(words) > 2 and words[0] in ("-K", "--features"):
        return change(words[1], words[2:])
    sys.stderr.write("this stands in for ethtool, and knows -k and -K only\n")
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except OSError as error:
        sys.stderr.write("netlink error: " + str(error.strerror) + "\n")
        sys.exit(1)
