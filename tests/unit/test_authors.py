"""The one import for authors: all of it is there, told as it is, and costs nothing unused."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import labctl

ROOT = Path(__file__).resolve().parents[2]


def imported() -> dict[str, str]:
    """Return the module of each name that a type checker sees."""
    tree = ast.parse((ROOT / "labctl" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def test_a_type_checker_sees_the_same_names_as_a_program() -> None:
    seen = imported()
    modules = {name: f"{seen[name]}.{name}" for name in labctl._MODULES}
    assert modules == labctl._MODULES
    others = {name: home for home, names in labctl._HOMES.items() for name in names.split()}
    assert others | {name: seen[name] for name in labctl._MODULES} == seen
    assert sorted(seen) == labctl.__all__


@pytest.mark.parametrize("name", labctl.__all__)
def test_every_name_can_be_had(name: str) -> None:
    home = import_module(imported()[name])
    assert getattr(labctl, name) is getattr(home, name)


def test_a_name_that_there_is_not_is_told() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Labb'"):
        _ = labctl.Labb
    with pytest.raises(ImportError, match="cannot import name 'Labb'"):
        exec("from labctl import Labb")
    assert set(labctl.__all__) <= set(dir(labctl))


def test_importing_labctl_imports_nothing() -> None:
    code = "import sys; before = set(sys.modules); import labctl; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["labctl"]
