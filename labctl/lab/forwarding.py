"""What routers of the lab and nodes that are routers have in common: a kind that forwards."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from labctl.errors import LabctlError
from labctl.kinds import registry
from labctl.kinds.base import ForwarderKind, Option, RunningRouter
from labctl.sandbox import codec


class Forwarding(ABC):
    """Remembers in files which kind forwards, and what it was told."""

    _kind: Path
    _options: Path

    @property
    @abstractmethod
    def kind(self) -> str | None:
        """What forwards now; None while nothing does."""

    @abstractmethod
    def stop(self) -> None:
        """Let nothing forward any more."""

    @abstractmethod
    def _stop(self, kind: ForwarderKind | None) -> None:
        """End a kind, and forget what was remembered."""

    @property
    def options(self) -> dict[str, Option]:
        """What its kind was told; what the kind leaves open is not in it."""
        if not self._options.exists():
            return {}
        return dict(codec.loads(self._options.read_bytes(), dict[str, Option]))

    def forwards(self) -> bool:
        """Tell whether anything forwards, as far as its kind can tell."""
        kind = self.kind
        return kind is not None and registry.forwarder(kind).forwards(cast("RunningRouter", self))

    def _take_over(self, kind: str, options: Mapping[str, Option]) -> None:
        """Let a kind forward in place of what did before; nothing does where it cannot start."""
        wanted = registry.forwarder(kind)
        registry.options(wanted, options)
        self.stop()
        self._options.write_bytes(codec.dumps(dict(options), dict[str, Option]))
        try:
            wanted.start(cast("RunningRouter", self))
        except BaseException:
            with contextlib.suppress(LabctlError):  # what went wrong first is told
                self._stop(wanted)
            raise
        self._kind.write_text(kind)
