"""The protocol counters of a kernel, among them those of checksum errors: shell text, and a parser.

The shell text is for any POSIX shell (busybox too), so that a guest needs nothing installed.
Sources: kernel net/ipv4/proc.c, net/ipv6/proc.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from labctl.errors import LabctlError

COUNTERS_COMMAND = "cat /proc/net/snmp /proc/net/netstat; cat /proc/net/snmp6 2>/dev/null || true"
"""Prints all the kernel's protocol counters, for `parse_counters`."""

CHECKSUM_COUNTERS = (
    "TcpInCsumErrors",
    "UdpInCsumErrors",
    "IcmpInCsumErrors",
    "Udp6InCsumErrors",
    "Icmp6InCsumErrors",
)
"""The counters of checksum errors. TCP has one for both families."""


class CountersError(LabctlError):
    """What a guest printed is not what the kernel's files hold."""


def parse_counters(text: str) -> dict[str, int]:
    """Parse what `COUNTERS_COMMAND` printed into names such as `TcpInCsumErrors`.

    Raises `CountersError` for anything else.
    """
    counters: dict[str, int] = {}
    names: list[str] | None = None
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        try:
            if not words[0].endswith(":"):  # snmp6: one name and one value a line
                name, value = words
                counters[name] = int(value)
            elif names is None:
                names = words
            else:
                if names[0] != words[0] or len(names) != len(words):
                    raise ValueError(line)
                prefix = words[0][:-1]
                pairs = zip(names[1:], words[1:], strict=True)
                counters |= {prefix + name: int(value) for name, value in pairs}
                names = None
        except ValueError:
            raise CountersError(f"not a line of kernel counters: {line[:80]!r}") from None
    if "TcpInCsumErrors" not in counters:
        raise CountersError(
            "the kernel's counters have no TcpInCsumErrors", "is /proc mounted there?"
        )
    return counters


def grown(
    before: Mapping[str, int],
    after: Mapping[str, int],
    names: Iterable[str] = CHECKSUM_COUNTERS,
) -> dict[str, int]:
    """Return by how much each of `names` grew, those that did not left out."""
    growth = {name: after.get(name, 0) - before.get(name, 0) for name in names}
    return {name: count for name, count in growth.items() if count}
