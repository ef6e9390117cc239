"""Find experiments by name, or load them from a user's own file."""

from __future__ import annotations

import difflib
import importlib.util
import sys
import traceback
from pathlib import Path

from labctl.errors import LabctlError, UsageError, nearest, shown
from labctl.experiments import installed
from labctl.experiments.builtin import BUILTIN
from labctl.experiments.catalogue import rows
from labctl.experiments.catalogue.row import PREFIX, experiment_of
from labctl.experiments.model import Experiment

IN_FILE = "::"
"""Between a file and the name of one experiment in it."""


def find(words: list[str]) -> list[Experiment]:
    """Return the experiments that `words` name: by their names, or Python files that hold some.

    Raises `UsageError` for a word that is neither, and for two experiments of one name, whose
    records nobody could tell apart, before anything is started.
    """
    found: list[Experiment] = []
    for word in words:
        if word in BUILTIN:
            found.append(BUILTIN[word])
        elif word.startswith(PREFIX):
            found.append(experiment_of(rows.find(word.removeprefix(PREFIX))))
        elif IN_FILE in word:
            found.append(_in_file(word))
        elif word.endswith(".py") or "/" in word:
            found += _from_file(Path(word))
        elif (declared := installed.find(word)) is not None:
            found.append(declared)
        else:
            names = [*BUILTIN, *(one.name for one in installed.entries() if one.experiment)]
            if Path(f"{word}.py").is_file():
                raise UsageError(
                    f"there is no experiment {word}, but a file {word}.py",
                    f"name the file: labctl experiment {word}.py",
                )
            near = difflib.get_close_matches(word, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
            raise UsageError(f"there is no experiment {word}", f"{hint} (or name a .py file)")
    for one in found:
        others = [other for other in (*BUILTIN.values(), *found) if other.name == one.name]
        if any(other is not one for other in others):
            raise UsageError(
                f"two experiments are called {one.name}", "give yours another name, or name one"
            )
    return found


def _in_file(word: str) -> Experiment:
    file, _, name = word.partition(IN_FILE)
    found = {one.name: one for one in _from_file(Path(file))}
    if name not in found:
        raise UsageError(f"{file} holds no experiment {shown(name)}", nearest(name, found))
    return found[name]


def _from_file(path: Path) -> list[Experiment]:
    if not path.is_file():
        raise UsageError(f"there is no file {path}", "name a Python file that holds an experiment")
    name = f"labctl_experiment_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as wrong:
        where = f"{wrong.filename or path}:{wrong.lineno}:{wrong.offset}"
        raise UsageError(f"{where}: {wrong.msg}") from None
    except Exception as wrong:
        # Of the traceback only the user's own line helps the user.
        lines = [
            f.lineno for f in traceback.extract_tb(wrong.__traceback__) if f.filename == spec.origin
        ]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        if isinstance(wrong, LabctlError):
            raise UsageError(f"{where}: {wrong.message}", wrong.hint) from None
        raise UsageError(f"{where}: {type(wrong).__name__}: {wrong}") from None
    found = [value for value in vars(module).values() if isinstance(value, Experiment)]
    if not found:
        raise UsageError(
            f"{path} holds no experiment",
            "make one: from labctl import experiment; docs/authors.md has an example",
        )
    return found
