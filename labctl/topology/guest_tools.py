"""What a guest has of the programs by which it can be looked into and made to send."""

from __future__ import annotations

from dataclasses import dataclass

PROGRAMS = ("perl", "python3", "tcpdump", "ethtool")
"""Those that are looked for in a guest."""
OBSERVERS = ("perl", "python3", "tcpdump")
"""Those of them that can observe an interface, the best first: tcpdump(8) tells no metadata."""
SCRIPTING = ("perl", "python3")
"""Those of them that labctl has programs for."""
CONSOLE_ONLY = "it has a console only"


@dataclass(frozen=True)
class GuestTools:
    """What was found in a guest when it was ready."""

    programs: tuple[str, ...] = ()
    """In the order of `PROGRAMS`."""
    why_not: str = ""
    """Why none of them can look into it; empty where that hangs on `programs` alone."""

    @property
    def observer(self) -> str:
        """The program that observes its interfaces; empty where none can."""
        if self.why_not:
            return ""
        return next((one for one in OBSERVERS if one in self.programs), "")

    @property
    def unseen(self) -> str:
        """Why nothing in it observes its interfaces; empty where something does."""
        return "" if self.observer else self.why_not or "it has neither perl, python3 nor tcpdump"
