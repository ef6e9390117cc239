"""A node of a running lab that nobody logs in to: what it would be asked is told to be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from labctl.errors import UsageError
from labctl.guests import ethtool
from labctl.lab.node import Job, Node
from labctl.sandbox.process import Result
from labctl.topology.guest_tools import CONSOLE_ONLY


class ConsoleNode(Node):
    """A guest that has a console and nothing else; packets that pass it are seen from outside."""

    def _refuse(self) -> NoReturn:
        raise UsageError(
            f"{self.name} has a console only: nothing can be run in it, or copied",
            f"talk to it: labctl console {self.name}; what it said: labctl logs {self.name}",
        )

    def words(self, line: str, *, shared: bool = True) -> list[str]:  # noqa: ARG002
        """Raise `UsageError`."""
        self._refuse()

    def session(self, command: Sequence[str] = ()) -> list[str]:  # noqa: ARG002
        """Raise `UsageError`."""
        self._refuse()

    def ssh_argv(self, *, shared: bool = True) -> list[str]:  # noqa: ARG002
        """Raise `UsageError`."""
        self._refuse()

    def run(
        self,
        command: str | Sequence[str],  # noqa: ARG002
        *,
        timeout: float = 0.0,  # noqa: ARG002
        check: bool = True,  # noqa: ARG002
        stdin: bytes = b"",  # noqa: ARG002
    ) -> Result:
        """Raise `UsageError`."""
        self._refuse()

    def start(self, command: str) -> Job:  # noqa: ARG002
        """Raise `UsageError`."""
        self._refuse()

    @property
    def serves_ssh(self) -> bool:
        """Nobody knows."""
        return False

    @property
    def offloads_untold(self) -> str:
        """Why its offloads cannot be told."""
        return CONSOLE_ONLY

    def device(self, interface: str = "eth0") -> dict[str, bool]:  # noqa: ARG002
        """Return nothing: it cannot be told."""
        return {}

    def features(self, interface: str = "eth0") -> dict[str, ethtool.Feature]:  # noqa: ARG002
        """Raise `UsageError`."""
        self._refuse()

    def set_features(
        self,
        wanted: Mapping[str, bool],  # noqa: ARG002
        interface: str = "eth0",  # noqa: ARG002
    ) -> dict[str, ethtool.Feature]:
        """Raise `UsageError`."""
        self._refuse()
