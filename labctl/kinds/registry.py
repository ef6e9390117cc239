"""Finds kinds by entry points: those of labctl, and those of any package that is installed.

The shipped ones are known without a look at what is installed, which takes longer than all else
that reading a topology needs. Others are looked up when one is named, or all are to be listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from labctl.errors import UsageError, nearest, shown
from labctl.kinds import declared, forwarders, guests, links, nics, observers
from labctl.kinds.base import ForwarderKind, Kind, LinkKind, ObserverKind, Option
from labctl.kinds.guests.base import GuestKind
from labctl.kinds.nics.base import NicModel

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

K = TypeVar("K", bound=Kind)
HERE = "this process"
"""Stands for the distribution of a kind that was registered by its class."""


@dataclass(frozen=True)
class Entry(Generic[K]):
    """A kind that is declared: its class, or why it cannot be used."""

    name: str
    distribution: str
    """The package that declares it, with its version."""
    kind: K | None
    problem: str = ""
    """Why there is no `kind`."""


class Group(Generic[K]):
    """All kinds of one sort, such as forwarders."""

    def __init__(
        self,
        entry_points: str,
        base: type[K],
        word: str,
        shipped: Mapping[str, str],
        also_says: tuple[str, ...] = (),
    ) -> None:
        """Look for subclasses of `base` among the entry points of a name, once it is needed.

        `word` is what messages call such a kind; `also_says` are class attributes that one must
        have beside those of every kind.
        """
        self.entry_points = entry_points
        self.shipped = shipped
        self.base = base
        self._word = word
        self._says = ("name", "summary", "effect", *also_says)
        self._known: dict[str, K] = {}
        """Of the shipped ones, those that were used."""
        self._registered: dict[str, K] = {}
        self._found: tuple[Entry[K], ...] | None = None

    def get(self, name: str) -> K:
        """Return the kind of a name; raises `UsageError` where none can be had."""
        if name in self.shipped:
            return self._shipped(name)
        if name in self._registered:
            return self._registered[name]
        for entry in self._others():
            if entry.name == name:
                if entry.kind is None:
                    raise UsageError(entry.problem, "repair or remove what declares it")
                return entry.kind
        raise UsageError(f"there is no {self._word} {shown(name)}", nearest(name, self.names()))

    def find(self, name: str) -> K | None:
        """Return the kind of a name; None where it cannot be had, or the name is empty."""
        try:
            return self.get(name) if name else None
        except UsageError:
            return None

    def is_declared(self, name: str) -> bool:
        """Tell whether a kind of this name is declared, be it of use or not."""
        if name in self.shipped or name in self._registered:
            return True
        return any(entry.name == name for entry in self._others())

    def names(self) -> tuple[str, ...]:
        """Return the names of all kinds that can be used."""
        others = (entry.name for entry in self._others() if entry.kind)
        return (*self.shipped, *self._registered, *others)

    def usable(self) -> tuple[K, ...]:
        """Return all kinds that can be used, the shipped ones first."""
        return tuple(entry.kind for entry in self.entries() if entry.kind)

    def entries(self) -> tuple[Entry[K], ...]:
        """Return all kinds that are declared, the shipped ones first."""
        from labctl.version import __version__

        ours = (
            Entry(name, f"{declared.OURS} {__version__}", self._shipped(name))
            for name in self.shipped
        )
        here = (Entry(name, HERE, kind) for name, kind in self._registered.items())
        return (*ours, *here, *self._others())

    def register(self, cls: type[K]) -> type[K]:
        """Make a kind known in this process without a package: a decorator for its class.

        For a test, or an experiment's file. Processes that other commands start know nothing of it.
        Raises `UsageError` for a class that says too little, and for a name that is taken.
        """
        what = f"the {self._word} {shown(getattr(cls, 'name', cls.__name__))} of {cls.__module__}"
        if problem := self._lacking(cls, what):
            raise UsageError(problem, "docs/kinds.md tells what a kind must say")
        if self.is_declared(cls.name):
            raise UsageError(f"{what}: there is one of that name", "give it another name")
        self._registered[cls.name] = cls()
        return cls

    def unregister(self, name: str) -> None:
        """Forget a kind that `register` made known; no error where there is none."""
        self._registered.pop(name, None)

    def forget(self) -> None:
        """Look anew at what is installed when next asked; for who installs something meanwhile."""
        self._found = None

    def _shipped(self, name: str) -> K:
        if name not in self._known:
            module, _, cls = self.shipped[name].partition(":")
            self._known[name] = getattr(import_module(module), cls)()
        return self._known[name]

    def _others(self) -> tuple[Entry[K], ...]:
        """Return what other packages declare, in the order of names."""
        if self._found is None:
            self._found = tuple(
                self._entry(name, points)
                for name, points in declared.others(self.entry_points).items()
            )
        return self._found

    def _entry(self, name: str, points: list[EntryPoint]) -> Entry[K]:
        def make(found: object, what: str) -> tuple[K | None, str]:
            if problem := self._lacking(found, what):
                return None, problem
            kind: K = found()  # type: ignore[operator]  # it is a class: see _lacking
            wrong = "" if kind.name == name else f"{what} calls itself {shown(kind.name)}"
            return (None if wrong else kind), wrong

        is_ours = name in self.shipped
        kind, package, problem = declared.load(self._word, points, make, is_ours=is_ours)
        return Entry(name, package, kind, problem)

    def _lacking(self, found: object, what: str) -> str:
        """Say why something is no kind of this group; empty where it is."""
        if not (isinstance(found, type) and issubclass(found, self.base)):
            return f"{what} is no subclass of {self.base.__name__}"
        lacks = [one for one in self._says if not hasattr(found, one)]
        lacks += sorted(getattr(found, "__abstractmethods__", ()))
        return f"{what} lacks {', '.join(lacks)}" if lacks else ""


FORWARDERS: Group[ForwarderKind] = Group(
    "labctl.forwarders",
    ForwarderKind,  # type: ignore[type-abstract]  # it is asked for subclasses of it
    "router kind",
    forwarders.SHIPPED,
    ("counters",),
)
LINKS: Group[LinkKind[Any]] = Group(
    "labctl.links",
    LinkKind,  # type: ignore[type-abstract]
    "link kind",
    links.SHIPPED,
)
OBSERVERS: Group[ObserverKind[Any]] = Group(
    "labctl.observers",
    ObserverKind,  # type: ignore[type-abstract]
    "observer",
    observers.SHIPPED,
)
GUESTS: Group[GuestKind] = Group(
    "labctl.guests",
    GuestKind,
    "guest kind",
    guests.SHIPPED,
    ("image", "image_with_all_nics", "cmdline", "built_by", "started_by"),
)
NICS: Group[NicModel] = Group(
    "labctl.nics", NicModel, "NIC model", nics.SHIPPED, ("driver", "carrier")
)
GROUPS: tuple[Group[Any], ...] = (FORWARDERS, LINKS, OBSERVERS, GUESTS, NICS)


@contextmanager
def registered(*classes: type[Kind]) -> Iterator[None]:
    """Know these kinds for the length of a `with` block; raises as `Group.register` does."""
    done: list[tuple[Group[Any], str]] = []
    try:
        for cls in classes:
            group = next((one for one in GROUPS if issubclass(cls, one.base)), None)
            if group is None:
                raise UsageError(f"{cls.__name__} is of no sort of kinds that labctl knows")
            group.register(cls)
            done.append((group, cls.name))
        yield
    finally:
        for group, name in done:
            group.unregister(name)


def forwarder(name: str) -> ForwarderKind:
    """Return the forwarder of a name; raises `UsageError` where none can be had."""
    return FORWARDERS.get(name)


def link(name: str) -> LinkKind[Any]:
    """Return the link kind of a name; raises `UsageError` where none can be had."""
    return LINKS.get(name)


def known() -> Iterator[Entry[Any]]:
    """Yield all kinds that are declared, of whatever sort."""
    for group in GROUPS:
        yield from group.entries()


def options(kind: Kind, given: Mapping[str, Option]) -> Any:
    """Return what was given as the kind's options; raises `UsageError` for what it cannot take.

    Types were checked when the topology was read.
    """
    try:
        return kind.options(**given)
    except TypeError as wrong:
        why = str(wrong).removeprefix(f"{kind.options.__name__}.__init__() ")
        raise UsageError(f"the options of {shown(kind.name)}: {why}") from None


def observer(name: str) -> ObserverKind[Any]:
    """Return the observer of a name; raises `UsageError` where none can be had."""
    return OBSERVERS.get(name)


def guest(name: str) -> GuestKind:
    """Return the guest kind of a name; raises `UsageError` where none can be had."""
    return GUESTS.get(name)


def nic(name: str) -> NicModel:
    """Return the NIC model of a name; raises `UsageError` where none can be had."""
    return NICS.get(name)


def forget() -> None:
    """Look anew at what is installed when next asked; for who installs something meanwhile."""
    for group in GROUPS:
        group.forget()
