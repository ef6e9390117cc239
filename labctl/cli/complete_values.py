"""The values that completion offers: what is there now, by name, without starting anything.

Each is a function of the lab that `--lab` names (empty where none is named) and of the word so far,
and returns what may stand there. What cannot be found out is left out: an error has no place at a
prompt.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

from labctl.errors import LabctlError

if TYPE_CHECKING:
    from labctl.topology.model import Topology

Values = Callable[[str, str], list[CompletionItem]]
MOST_RUNS = 50
"""How many of the latest runs are offered."""
SUFFIXES = (".yaml", ".yml")


def nothing(_lab: str, _begun: str) -> list[CompletionItem]:
    """Offer nothing: a number, or a text of the user's own."""
    return []


def labs(_lab: str, begun: str) -> list[CompletionItem]:
    """Offer the labs that are up, and those that a killed labctl has left behind."""
    with contextlib.suppress(LabctlError, OSError):
        from labctl.lab import state

        return _items(begun, [folder.name for folder in state.known()])
    return []


def nodes(lab: str, begun: str) -> list[CompletionItem]:
    """Offer the nodes and routers of the lab."""
    known = _topology(lab)
    return _items(begun, [*known.nodes, *known.routers]) if known else []


def endpoints(lab: str, begun: str) -> list[CompletionItem]:
    """Offer the nodes of the lab in which packets may begin and end."""
    known = _topology(lab)
    return _items(begun, [one.name for one in known.endpoints()]) if known else []


def interfaces(lab: str, begun: str) -> list[CompletionItem]:
    """Offer the interfaces of the lab, and what may be done to them."""
    known = _topology(lab)
    if known is None:
        return []
    from labctl.lab import ports

    return _items(begun, [*(one.name for one in ports.ports(known)), "down", "up"])


def hops(lab: str, begun: str) -> list[CompletionItem]:
    """Offer the hops of the lab, and what has some."""
    known = _topology(lab)
    if known is None:
        return []
    from labctl.topology.graph import points_of

    points = points_of(known)
    owners = dict.fromkeys(hop.element for hop in points.values())
    return _items(begun, dict.fromkeys([*points, *owners]))


def copied(lab: str, begun: str) -> list[CompletionItem]:
    """Offer nodes with a colon behind them, and files of this host."""
    known = _topology(lab)
    found = _items(begun, [f"{name}:" for name in known.nodes]) if known else []
    return found if found and begun else [*found, CompletionItem(begun, type="file")]


def topologies(_lab: str, begun: str) -> list[CompletionItem]:
    """Offer shipped topologies, and the YAML files and folders where the word leads to."""
    found = _files(begun, SUFFIXES)
    with contextlib.suppress(LabctlError):
        from labctl.topology import lookup

        if "/" not in begun:
            found = [*(path.name for path in lookup.shipped()), *found]
    return _items(begun, dict.fromkeys(found))


def experiments(_lab: str, begun: str) -> list[CompletionItem]:
    """Offer the experiments of labctl and of other packages, and Python files."""
    return _items(begun, [*_noted("experiments"), *_files(begun, (".py",))])


def explained(_lab: str, begun: str) -> list[CompletionItem]:
    """Offer what can be explained: experiments and kinds."""
    return _items(begun, dict.fromkeys([*_noted("explained"), *_kinds()]))


def rows(_lab: str, begun: str) -> list[CompletionItem]:
    """Offer the rows of the catalogue."""
    return _items(begun, _noted("rows"))


def kinds(_lab: str, begun: str) -> list[CompletionItem]:
    """Offer the kinds that a lab can be made of."""
    return _items(begun, dict.fromkeys(_kinds()))


def observers(_lab: str, begun: str) -> list[CompletionItem]:
    """Offer the kinds of observers."""
    from labctl.kinds import registry

    return _items(begun, registry.OBSERVERS.names())


def images(_lab: str, begun: str) -> list[CompletionItem]:
    """Offer the images that can be made."""
    with contextlib.suppress(LabctlError, OSError):
        from labctl.images import recipe_paths

        return _items(begun, recipe_paths.names())
    return []


def kernels(_lab: str, begun: str) -> list[CompletionItem]:
    """Offer the kernels of Debian's releases, and files where the word is a path."""
    with contextlib.suppress(LabctlError, OSError):
        from labctl.images import recipe_paths

        if found := _items(begun, recipe_paths.kernels()):
            return found
    return [CompletionItem(begun, type="file")]


def runs(_lab: str, begun: str) -> list[CompletionItem]:
    """Offer `last`, and the ids of the latest runs; folders where the word is a path."""
    if "/" in begun:
        return [CompletionItem(begun, type="dir")]
    with contextlib.suppress(OSError, LabctlError):
        root = os.environ.get("LABCTL_RESULTS") or _results()
        ids = sorted(entry.name for entry in os.scandir(root) if entry.name[:1].isdigit())
        return _items(begun, ["last", "last~1", *reversed(ids[-MOST_RUNS:])])
    return _items(begun, ["last"])


def _results() -> Path:
    from labctl.sandbox import paths

    return paths.state() / "results"


def _topology(name: str) -> Topology | None:
    """Return the topology of the lab that is meant; None where none is up, or several are."""
    with contextlib.suppress(LabctlError, OSError):
        from labctl.lab import state

        return state.load(state.find(name or os.environ.get("LABCTL_LAB") or None)).topology
    return None


def _files(begun: str, suffixes: tuple[str, ...]) -> list[str]:
    """Return files with these endings, and folders with a / behind, that a word may become."""
    folder, slash, stem = begun.rpartition("/")
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(Path(f"{folder}{slash}").iterdir()):
            hidden = path.name.startswith(".") and not stem.startswith(".")
            if path.name.startswith(stem) and not hidden:
                if path.is_dir():
                    found.append(f"{folder}{slash}{path.name}/")
                elif path.suffix in suffixes:
                    found.append(f"{folder}{slash}{path.name}")
    return found


def _kinds() -> tuple[str, ...]:
    from labctl.kinds import registry

    return tuple(name for group in registry.GROUPS for name in group.names())


def _noted(what: str) -> tuple[str, ...]:
    """Return names whose modules take long to import, from the cache where they are known."""
    from labctl.sandbox import user_cache

    folder = Path(__file__).parent.parent / "experiments"  # to import it takes long
    parts = [what, *(f"{file} {file.stat().st_mtime_ns}" for file in folder.rglob("*.py"))]
    key = user_cache.key(folder, parts)
    known: tuple[str, ...] | None = user_cache.load("completion", key, tuple[str, ...])
    if known is None:
        known = _look_up(what)
        user_cache.keep("completion", key, known, tuple[str, ...])
    return known


def _look_up(what: str) -> tuple[str, ...]:
    if what == "rows":
        from labctl.experiments.catalogue import rows as of_catalogue

        return tuple(of_catalogue.names())
    if what == "explained":
        from labctl.experiments.explained import NAMES

        return tuple(NAMES)
    from labctl.experiments.builtin import BUILTIN
    from labctl.experiments.installed import entries

    return (*BUILTIN, *(one.name for one in entries() if one.experiment))


def _items(begun: str, names: Iterable[str]) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(begun)]
