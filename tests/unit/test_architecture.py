"""The shape of the project: who may know whom, who may speak, and that the locks are whole."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from labctl.kinds import observers
from labctl.kinds.forwarders import SHIPPED
from labctl.sandbox import remote

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "labctl"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MAY_START_PROGRAMS = {
    "sandbox",  # the gate itself, and what is behind it
    "__main__.py",  # Python anew, where the locale is not UTF-8
    "capture/spawn.py",  # observers of a host without a sandbox
    "network/confined.py",  # becomes the program of a link
    "routers/ovs.py",  # such a program itself, of several processes
    "cli/terminal.py",  # a console on the user's terminal, by a program in the lab's sandbox
    "cli/process.py",  # the command becomes ssh itself, so that its exit status is ours
}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(PACKAGE, tmp_path / "labctl", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_rooms_know_only_the_rooms_below(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("topology", "import labctl.lab"),
        ("guests", "from labctl.network import nothing"),
        ("errors.py", "import labctl.sandbox"),
        ("kinds", "from labctl import Lab"),
    ],
)
def test_an_import_in_the_wrong_direction_is_found(copy: Path, room: str, line: str) -> None:
    path = copy / "labctl" / room
    path = path if path.suffix else path / "__init__.py"
    path.write_text(f"{path.read_text()}\n{line}\n")
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


def test_what_reads_frames_needs_the_standard_library_alone() -> None:
    for path in sorted((PACKAGE / "packet").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                ours = name.startswith("labctl.packet")
                assert ours or name.partition(".")[0] in sys.stdlib_module_names, (path.name, name)


KINDS = PACKAGE / "kinds"
ROWS = PACKAGE / "experiments/catalogue/rows.py"
"""Topologies as data, which name kinds as a file does."""
NAMES_OF_OTHER_THINGS = {
    ("guests/domain.py", "raw"): "how libvirt calls the format of a disk",
    ("images/decompress.py", "raw"): "how libarchive calls the format of a stream",
    ("images/disk_format.py", "raw"): "how QEMU calls a disk image without a header",
    ("lab/disk_guests.py", "raw"): "how QEMU calls a disk image without a header",
    ("topology/disk_image.py", "raw"): "how QEMU calls a disk image without a header",
    ("images/kernel.py", "raw"): "how libarchive calls the format of a stream",
    ("backends/xen_remote.py", "namespace"): "a network namespace, in what is asked of a Xen host",
    ("routers/raw.py", "raw"): "what the program calls itself",
    ("kinds/guests/__init__.py", "namespace"): "the guest kind",
    ("kinds/guests/namespace.py", "namespace"): "the guest kind",
    ("experiments/catalogue/paths.py", "namespace"): "the guest kind",
    ("kinds/nics/veth.py", "namespace"): "where such an interface is",
    ("routers/tun.py", "tun"): "the type of device",
    ("lab/kernel_parts.py", "nat"): "a type of chain of nftables",
    ("lab/kernel_parts.py", "vrf"): "a type of link",
    ("routers/vrf.py", "vrf"): "a type of link, and what the program calls itself",
    ("routers/masquerade.py", "nat"): "a type of chain of nftables",
}


def test_kinds_need_the_standard_library_alone() -> None:
    for path in sorted(KINDS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                rooms = ("labctl.version", "labctl.errors", "labctl.kinds", "labctl.packet")
                ours = name.startswith(rooms)
                assert ours or name.partition(".")[0] in sys.stdlib_module_names, (path.name, name)


def strings(path: Path) -> Iterator[str]:
    """Give the strings of a file that are no documentation."""
    tree = ast.parse(path.read_text())
    told = {
        node.value for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in told:
            yield node.value


def test_nothing_outside_names_a_forwarder_by_a_string() -> None:
    names = "|".join(map(re.escape, SHIPPED))
    # A hyphen makes a name that means nothing else.
    plain = "|".join(re.escape(name) for name in SHIPPED if "-" in name)
    named = re.compile(rf"(?:{names})/?|.*\bkinds? (?:{names})\b.*|.*(?:{plain}).*", re.S)
    found = {
        (str(path.relative_to(PACKAGE)), text)
        for path in SOURCES
        if KINDS / "forwarders" not in path.parents and path != ROWS
        for text in strings(path)
        if named.fullmatch(text)
    }
    assert found == NAMES_OF_OTHER_THINGS.keys()


def test_nothing_outside_names_an_observer_by_a_string() -> None:
    plain = [name for name in observers.SHIPPED if "-" in name]  # the others are words too
    assert plain
    found = {
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        if KINDS / "observers" not in path.parents
        for text in strings(path)
        if any(name in text for name in plain)
    }
    assert found == set()


def test_nothing_but_a_backend_tells_one_uri_from_another() -> None:
    found = set()
    for path in SOURCES:
        if PACKAGE / "backends" in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            asked: list[ast.expr] = []
            if isinstance(node, ast.If | ast.IfExp | ast.While):
                asked = [node.test]
            elif isinstance(node, ast.Compare | ast.BoolOp | ast.UnaryOp):
                asked = [node]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                asked = [node.func.value]  # uri.startswith(…)
            texts = (re.sub(r"backends\.\w+\([\w.]+\)", "", ast.unparse(one)) for one in asked)
            if any(re.search(r"\buri\b", text) for text in texts):
                found.add(str(path.relative_to(PACKAGE)))
    assert found == set()


def test_a_room_without_a_place_is_found(copy: Path) -> None:
    (copy / "labctl" / "attic").mkdir()
    (copy / "labctl" / "attic" / "__init__.py").touch()
    assert lint_imports(copy).returncode != 0


def calls(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def test_only_the_command_line_prints() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        if path.relative_to(PACKAGE).parts[0] != "cli"
        for name, line in calls(path)
        if name in {"print", "input"}
    ]
    assert found == []


def test_programs_are_started_at_the_gate_only() -> None:
    pattern = re.compile(
        r"(subprocess\.(run|Popen|call|check_\w+)|os\.(system|popen|posix_spawnp?|spawn\w+|exec\w+))"
    )
    found = {
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        for name, _line in calls(path)
        if pattern.fullmatch(name)
    }
    rooms = {name.split("/")[0] if name.startswith("sandbox/") else name for name in found}
    assert rooms <= MAY_START_PROGRAMS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_stays_readable_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 450


def locked(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text()
    entries = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)[^\n]*\\\n( +--hash=sha256:)", text, re.M)
    assert len(entries) == len(re.findall(r"^[^\s#]", text, re.M)), "an entry has no hash"
    return {canonicalize_name(entry[0]): entry[1] for entry in entries}


def test_every_declared_dependency_is_pinned_as_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = locked("dev.lock")
    for text in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        wanted = Requirement(text)
        pin = pins.get(canonicalize_name(wanted.name))
        assert pin is not None, f"{text}: run make lock"
        assert wanted.specifier.contains(pin, prereleases=True), f"{text}: run make lock"


def test_what_builds_labctl_is_pinned() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    pins = locked("build.lock")
    assert {canonicalize_name(Requirement(text).name) for text in build["requires"]} <= set(pins)


@pytest.mark.parametrize("name", ["build.lock", "dev.lock"])
def test_a_lock_names_no_place_to_fetch_from(name: str) -> None:
    assert "://" not in (ROOT / "requirements" / name).read_text()


def test_every_system_package_says_what_it_is_for() -> None:
    lines = (PACKAGE / "system-packages.txt").read_text().splitlines()
    entries = [line for line in lines if line and not line.startswith("#")]
    assert entries
    for line in entries:
        assert re.fullmatch(r"[a-z0-9][a-z0-9+.-]+ +# \S.*", line), line


def calls_in_agents(path: Path) -> list[str]:
    """Name the functions of labctl's modules that a file calls in an agent."""
    tree = ast.parse(path.read_text())
    modules = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    return [
        f"{modules[call.args[0].value.id]}:{call.args[0].attr}"
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in ("call", "begin", "call_with_events")
        and call.args
        and isinstance(call.args[0], ast.Attribute)
        and isinstance(call.args[0].value, ast.Name)
        and modules.get(call.args[0].value.id, "").startswith("labctl.")
    ]


def test_what_is_called_in_an_agent_may_be_called_there() -> None:
    called = {name for path in SOURCES for name in calls_in_agents(path)}
    assert len(called) > 20
    for name in called:
        assert remote.signature(name).result is not ...


def test_every_place_that_contributing_names_is_there() -> None:
    root = PACKAGE.parent
    text = (root / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:labctl|images|topologies|tests|docs)/[^` ]*)`", text)
    assert len(named) > 10
    missing = [name for name in named if not (root / name).exists()]
    assert not missing
