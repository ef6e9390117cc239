"""What a step cannot do without: where it lacks, that is a skip which says why."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator, Sequence

from labctl.errors import UsageError, shown
from labctl.experiments.run_context import Skip
from labctl.lab.node import Node
from labctl.sandbox.process import ENVIRONMENT

Names = str | Sequence[str]

_MODULE = re.compile(r"[A-Za-z0-9_-]+")
_RELEASE = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,5}))?")


def require(
    node: Node | None = None,
    *,
    programs: Names = (),
    modules: Names = (),
    kernel: str = "",
    tools: Names = (),
) -> None:
    """Raise `Skip` with the reason where something lacks; several names are a sequence.

    Of a guest: `programs` on its PATH, kernel `modules` (each is loaded, unless it is built in),
    and a `kernel` of at least that version, such as "6.1". Of this host: `tools` on labctl's PATH.
    Raises `UsageError` for a version that is none, or where a guest is needed and none is named;
    `GuestError` where the guest cannot tell.
    """
    if node is None:
        if programs or modules or kernel:
            raise UsageError(
                "programs, modules and a kernel are required of a guest", "name it first"
            )
        lacking: list[str] = []
    else:
        lacking = list(_lacking(node, _names(programs), _names(modules), kernel))
    for tool in _names(tools):
        if not shutil.which(tool, path=ENVIRONMENT["PATH"]):
            lacking.append(f"this host has no program {tool}")
    if lacking:
        raise Skip("; ".join(lacking))


def _lacking(
    node: Node, programs: Sequence[str], modules: Sequence[str], kernel: str
) -> Iterator[str]:
    for program in programs:
        if not node.run(f"command -v {shlex.quote(program)}", check=False).ok:
            yield f"{node.name} has no program {program}"
    for module in modules:
        if not node.run(_have_module(module), check=False).ok:
            yield f"{node.name} has no kernel module {module}"
    if kernel:
        wanted = _version(kernel)
        if wanted is None:
            raise UsageError(f"{shown(kernel)} is no kernel version", "write one such as 6.1")
        release, found = node.ask("uname -r", _release)
        if found < wanted:
            yield f"{node.name} has Linux {release}, older than {kernel}"


def _have_module(name: str) -> str:
    """Return shell text that succeeds where the kernel has a module, loaded or built in."""
    if not _MODULE.fullmatch(name):
        raise UsageError(f"{shown(name)} is no name of a kernel module", "leave out path and .ko")
    loaded = f"[ -d /sys/module/{name.replace('-', '_')} ]"
    # A file's name may have either character where the module's has the other.
    file = re.sub("[-_]", "[-_]", name)
    built_in = f"grep -q '/{file}[.]ko' /lib/modules/$(uname -r)/modules.builtin 2>/dev/null"
    return f"{loaded} || {built_in} || modprobe -q {name}"


def _release(text: str) -> tuple[str, tuple[int, int, int]]:
    """Return what `uname -r` said, and the version in it; raises `ValueError` without one."""
    found = _version(text.strip())
    if found is None:
        raise ValueError(text)
    return text.strip()[:100], found


def _version(text: str) -> tuple[int, int, int] | None:
    match = _RELEASE.match(text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def _names(names: Names) -> Sequence[str]:
    return (names,) if isinstance(names, str) else names
