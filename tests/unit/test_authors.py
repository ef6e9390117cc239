"""The one import for authors: all of it is there, told as it is, and costs nothing unused."""

from __future__ import annotations

import ast
import enum
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import labctl

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "authors.md"
DOCUMENTS = (PAGE, ROOT / "docs" / "experiments.md", ROOT / "docs" / "pytest.md")
FUNCTIONS = {
    "probes": ("ping", "ssh", "tcp", "udp"),
    "topology": ("find", "find_shipped", "from_mapping", "load", "loads"),
    "watch": ("capture", "counters", "watch_drops", "watch_flags"),
}
"""What authors need of the modules that are named whole."""
NOT_FOR_AUTHORS = {
    "Arm": {"interrupted", "result", "undo"},
    "Deadline": {"landed", "travelling"},
    "Lab": {
        "check_console", "check_programs", "check_running", "console_words", "forwarder",
        "hypervisor", "place", "tap_features", "versions",
    },
    "Node": {"console", "interface", "session", "set_features", "ssh_argv", "words"},
    "Router": {
        "features", "forwards", "kernel_counters", "kernel_forwards", "program_counters",
        "set_kernel_forwarding", "start_program", "stop",
    },
    "Topology": {
        "forwarding_nodes", "inside", "namespace_nodes", "outer_machines", "outer_networks",
        "outer_nodes", "outer_routers", "xen_hosts",
    },
    "Trial": {"undo"},
}  # fmt: skip
"""What labctl itself calls of them, or what only few will miss."""
NOT_MADE_BY_AUTHORS = {
    "Arm", "Capture", "Expected", "Experiment", "ForwarderKind", "FrameObserver", "GuestKind",
    "Job", "Kind", "Lab", "LinkKind", "Node", "ObserverKind", "Reader", "Router", "RunningRouter",
    "Skip", "Step", "TopologyError", "Trial",
}  # fmt: skip
"""Classes of which an author gets objects, or which have no signature of interest."""


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


# --- the page -----------------------------------------------------------------------------------


class Plain:
    """Text that stands in a signature as it is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def signature(called: str, function: Callable[..., Any], *, bound: bool = False) -> str:
    """Return a signature as the page has it; `bound` leaves the first argument out."""
    found = inspect.signature(function)
    parameters = []
    for one in list(found.parameters.values())[bound:]:
        if isinstance(one.annotation, str):
            one = one.replace(annotation=Plain(one.annotation))
        if inspect.isfunction(one.default):
            one = one.replace(default=Plain(one.default.__name__))
        parameters.append(one)
    gives = found.return_annotation
    found = found.replace(
        parameters=parameters, return_annotation=Plain(gives) if isinstance(gives, str) else gives
    )
    block = hasattr(function, "__wrapped__") and str(gives).startswith("Iterator")
    return f"{'with ' if block else ''}{called}{found}".removesuffix(" -> None")


def members(name: str, cls: type) -> Iterator[tuple[str, object]]:
    """Give what a class defines for authors."""
    for member, value in vars(cls).items():
        if not member.startswith("_") and member not in NOT_FOR_AUTHORS.get(name, ()):
            yield member, value


def signatures(name: str) -> list[str]:
    """Return the lines of a name on the page: its own signature, and those of its methods."""
    if name in FUNCTIONS:
        module = getattr(labctl, name)
        return [signature(f"{name}.{one}", getattr(module, one)) for one in FUNCTIONS[name]]
    value = getattr(labctl, name)
    if inspect.isfunction(value):
        return [signature(name, value)]
    if not inspect.isclass(value) or issubclass(value, enum.Enum | Exception):
        return []
    lines = [] if name in NOT_MADE_BY_AUTHORS else [signature(name, value)]
    for member, method in members(name, value):
        if isinstance(method, classmethod):
            lines.append(signature(f"{name}.{member}", getattr(value, member)))
        elif inspect.isfunction(method):
            lines.append(signature(f"{name.lower()}.{member}", method, bound=True))
    return lines


def properties(name: str) -> list[str]:
    value = getattr(labctl, name)
    if not inspect.isclass(value):
        return []
    if issubclass(value, enum.Enum):
        return [one.name for one in value]
    kinds = (property, cached_property)
    return [member for member, one in members(name, value) if isinstance(one, kinds)]


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("name", labctl.__all__)
def test_the_page_has_every_name_as_it_is(name: str) -> None:
    page = " ".join(PAGE.read_text().split())
    for line in signatures(name):
        assert line in page, f"docs/authors.md lacks: {line}"
    for one in properties(name):
        assert re.search(rf"`[^`]*\b{one}\b[^`]*`", page), f"docs/authors.md lacks {name}'s {one}"
    used = "\n".join(blocks(PAGE))
    assert re.search(rf"\b{name}\b", used), f"docs/authors.md has no example with {name}"


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.name))
def test_the_examples_import_what_there_is_and_run_as_far_as_they_need_no_guests(
    page: Path,
) -> None:
    assert blocks(page)
    for number, text in enumerate(blocks(page)):
        code = compile(text, f"{page.name}, example {number + 1}", "exec", dont_inherit=True)
        names = {"__name__": "example", "pytest": pytest}
        exec(code, names)


def test_the_page_is_found() -> None:
    for page in ("README.md", "docs/experiments.md", "docs/pytest.md"):
        assert "authors.md" in (ROOT / page).read_text(), page
