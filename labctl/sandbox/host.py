"""The host's own namespaces as a sandbox: for `--connect`, where a system's libvirtd runs guests.

Nothing here is cleaned up by construction. What a lab makes is known by its state, which is written
before the first link is made, so `labctl down` can always take it away.
"""

from __future__ import annotations

from pathlib import Path

from labctl.errors import HostError
from labctl.sandbox import owned
from labctl.sandbox.base import Sandbox

MARKER = "host-sandbox"


class Host(Sandbox):
    """The namespaces labctl itself runs in."""

    @classmethod
    def create(cls, directory: Path) -> Host:
        """Make the lab's directory; libvirtd's QEMU, another user, may pass through it.

        Raises `HostError` where it could not come that far.
        """
        _let_pass(directory.parent)
        owned.make(directory, mode=0o711)
        (directory / MARKER).touch(mode=0o600)
        return cls(directory)

    @classmethod
    def attach(cls, directory: Path) -> Host:
        """Return the sandbox of a directory; raises `FileNotFoundError` when it holds none."""
        (directory / MARKER).stat()
        return cls(directory)

    @property
    def lives(self) -> bool:
        """Whether the lab's directory is there."""
        return (self.directory / MARKER).exists()

    def enter(self, netns: str = "") -> list[str]:
        """Return the words that enter a named network namespace; none for the host's own."""
        return ["nsenter", f"--net=/run/netns/{netns}", "--"] if netns else []

    def process(self, pid: int) -> Path:
        """Return the folder of proc(5) of a process."""
        return Path(f"/proc/{pid}")

    def keep(self) -> None:
        """Nothing to do: nothing here ends with this process."""

    def end(self) -> None:
        """Let go and remove the directory; links and guests are the lab's to remove first."""
        self.close()
        owned.remove(self.directory)


def _let_pass(folder: Path) -> None:
    """Let other users pass through the runtime folder, if it is labctl's own to change."""
    mode = folder.stat().st_mode
    if mode & 0o001:
        return
    if not owned.is_made(folder):
        raise HostError(
            f"{folder} lets no other user pass, and a system's QEMU is one",
            f"run: chmod o+x {folder}; or set LABCTL_RUNTIME_DIR to another folder",
        )
    folder.chmod(0o711)
