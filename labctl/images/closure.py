"""What a chosen file needs besides itself: libraries of programs, modules of kernel modules."""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from labctl.errors import LabctlError, UsageError
from labctl.images.tree import Entry, Tree, normal
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import run

_KMOD_INDEXES = [f"modules.{name}.bin" for name in ("alias", "builtin", "dep", "symbols")]
"""What libkmod reads, and nothing else (libkmod/libkmod.c, `index_files`)."""
_ELF = b"\x7fELF"
_ELF_FOLDERS = ("usr/bin/", "usr/sbin/", "usr/lib")
_LIBRARY_FOLDERS = ("usr/lib/x86_64-linux-gnu", "usr/lib", "usr/lib64")


def choose(source: Tree, patterns: Iterable[str], exclude: Iterable[str]) -> list[str]:
    """Return the paths in `source` that `patterns` ask for, but for those of `exclude`.

    `**` and `*` both match across folders. Raises `UsageError` for a pattern that matches nothing.
    """
    left_out = tuple(exclude)
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [path for path in source if fnmatchcase(path, pattern)]
        if not found:
            raise UsageError(
                f"no package of the recipe holds {pattern}",
                "correct `files`, or add the package that holds it to `packages`",
            )
        for path in found:
            if not any(fnmatchcase(path, out) for out in left_out):
                chosen[path] = None
    return list(chosen)


def copy_with_libraries(source: Tree, paths: Iterable[str], target: Tree) -> None:
    """Copy files to `target`, and with them the interpreter and libraries of every ELF among them.

    Raises `LabctlError` naming a library that none of the packages holds.
    """
    queue = list(paths)
    while queue:
        path = queue.pop()
        if path in target:
            continue
        entry = source.entries[path]
        target.add(path, entry)
        if entry.link is not None:
            leads = source.resolve(path)
            if leads is None:
                raise LabctlError(
                    f"{path} is a link to {entry.link}, which no package of the recipe holds",
                    "add the package that holds it to `packages`",
                )
            queue.append(leads)
            continue
        data = entry.read()
        folders = (*_runpath(data), *_LIBRARY_FOLDERS)
        queue += [_library(source, needed, path, folders) for needed in _needs(data)]


def check_libraries(tree: Tree) -> None:
    """Raise `LabctlError` for a library that a program or library in `tree` needs and that lacks.

    Those in folders of a program's own are found by that program.
    """
    known = {path.rpartition("/")[2] for path in tree}
    for path, entry in tree.entries.items():
        if isinstance(entry.data, Path) and path.startswith(_ELF_FOLDERS):
            with entry.data.open("rb") as file:
                if file.read(4) != _ELF:
                    continue
            for needed in _needs(entry.read()):
                if needed.rpartition("/")[2] not in known:
                    raise _missing(needed, path)


def _needs(data: bytes) -> list[str]:
    """Return PT_INTERP and every DT_NEEDED of an ELF file; nothing for any other file."""
    if not data.startswith(_ELF):
        return []
    try:
        elf = ELFFile(io.BytesIO(data))
        needs = [
            segment.get_interp_name()
            for segment in elf.iter_segments()
            if isinstance(segment, InterpSegment)
        ]
        for section in elf.iter_sections():
            if isinstance(section, DynamicSection):
                # The name is set as the tag is made, by its kind: no type checker can know it.
                needs += [str(getattr(tag, "needed")) for tag in section.iter_tags("DT_NEEDED")]  # noqa: B009
    except ELFError:
        return []
    return needs


def _runpath(data: bytes) -> list[str]:
    """Return the folders of an ELF file's own that its libraries are looked for in (DT_RUNPATH)."""
    if not data.startswith(_ELF):
        return []
    try:
        return [
            normal(folder)
            for section in ELFFile(io.BytesIO(data)).iter_sections()
            if isinstance(section, DynamicSection)
            for tag in section.iter_tags("DT_RUNPATH")
            for folder in str(getattr(tag, "runpath")).split(":")  # noqa: B009 - set by its kind
            if folder.startswith("/")
        ]
    except ELFError:
        return []


def _library(source: Tree, needed: str, user: str, folders: Sequence[str]) -> str:
    """Return the path of a library as the dynamic linker would find it without a cache."""
    candidates = [needed] if "/" in needed else [f"{top}/{needed}" for top in folders]
    for candidate in candidates:
        normal = candidate.lstrip("/")
        normal = f"usr/{normal}" if normal.startswith("lib") else normal
        if normal in source:
            return normal
    raise _missing(needed, user)


def _missing(needed: str, user: str) -> LabctlError:
    return LabctlError(
        f"no package of the recipe holds {needed}, which {user} needs",
        "add the package that holds it to `packages`, then run: labctl image lock",
    )


def copy_modules(
    source: Tree,
    release: str,
    names: Iterable[str],
    target: Tree,
    scratch: Path,
    *,
    deadline: Deadline,
    binary: bool = False,
) -> None:
    """Copy kernel modules and all that they depend on, with the index that modprobe reads.

    That is busybox's, or kmod's where it is `binary`.
    A module that the kernel has built in is there already. `scratch` is a folder to work in.
    Raises `UsageError` for a module that the kernel does not have.
    """
    top = f"usr/lib/modules/{release}"
    paths = {
        _module_name(path): path
        for path in source
        if path.startswith(f"{top}/") and path.endswith((".ko", ".ko.xz"))
    }
    builtin_file = source.entries.get(f"{top}/modules.builtin")
    builtin_text = builtin_file.read().decode() if builtin_file else ""
    builtin = {_module_name(line) for line in builtin_text.splitlines()}
    chosen: dict[str, bytes] = {}
    queue = [_module_name(name) for name in names]
    while queue:
        name = queue.pop()
        if name in chosen or name in builtin:
            continue
        if name not in paths:
            raise UsageError(
                f"the kernel {release} has no module {name}", "correct `modules` of the recipe"
            )
        data = source.entries[paths[name]].read()
        if paths[name].endswith(".xz"):
            data = lzma.decompress(data)
        chosen[name] = data
        queue += [_module_name(other) for other in _depends(data, name)]
    folder = scratch / "lib/modules" / release
    for name, data in chosen.items():
        place = paths[name].removesuffix(".xz")
        target.add(place, Entry(0o644, data))
        file = folder / place.removeprefix(f"{top}/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "modules.builtin").write_text(builtin_text)
    # kmod's indexes have the modules in this order; without it, it would be the disk's.
    order = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.ko")) if binary else []
    (folder / "modules.order").write_text("".join(f"{path}\n" for path in order))
    run(["depmod", "-b", str(scratch), release], deadline=deadline, package="kmod")
    target.add(f"{top}/modules.builtin", Entry(0o644, builtin_text.encode()))
    for index in ("modules.dep", "modules.alias"):
        # depmod writes them in the order the folder was read in, which is the disk's.
        lines = sorted((folder / index).read_text().splitlines(keepends=True))
        target.add(f"{top}/{index}", Entry(0o644, "".join(lines).encode()))
    for index in _KMOD_INDEXES if binary else ():
        target.add(f"{top}/{index}", Entry(0o644, (folder / index).read_bytes()))


def _module_name(path: str) -> str:
    """Return a module's name as the kernel spells it: no folder, no ending, `-` as `_`."""
    name = path.rsplit("/", 1)[-1].removesuffix(".xz").removesuffix(".ko")
    return name.replace("-", "_")


def _depends(data: bytes, name: str) -> list[str]:
    """Return the names in the `depends=` of a module's .modinfo (MODULE_INFO, linux/module.h)."""
    try:
        section = ELFFile(io.BytesIO(data)).get_section_by_name(".modinfo")
    except ELFError as error:
        raise LabctlError(f"the kernel module {name} is not an ELF file: {error}") from None
    for field in section.data().split(b"\0") if section else ():
        if field.startswith(b"depends="):
            return [part for part in field[8:].decode().split(",") if part]
    return []
