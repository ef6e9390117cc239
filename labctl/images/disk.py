"""A disk that boots by itself, made of unpacked packages: GRUB, one ext4 file system, no root.

The layout is that of a PC with a BIOS: the first sector holds GRUB's `boot.img` and the table of
partitions, the sectors behind it GRUB's core, and from the first MiB on lies one partition. GRUB's
images name each other's sectors already where they lie so, one behind the other
(grub-core/boot/i386/pc/boot.S, `kernel_sector`; diskboot.S, `blocklist_default_start`).

The bytes depend on the recipe alone, as those of an initramfs do: owners, times, identifiers and
the order of files are fixed. What mke2fs takes over from the files that it copies, their owner and
the time of their last change, is set again afterwards.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from labctl.errors import LabctlError, UsageError
from labctl.images import closure
from labctl.images.recipe import LoadedRecipe
from labctl.images.tree import Entry, Tree
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import last_lines, run

EPOCH = 1_672_531_200
"""The time of everything in the image: the start of 2023. A guest's clock is later."""
START = 1 << 20
"""Octets before the partition."""
SECTOR = 512
GRUB = "usr/lib/grub/i386-pc"
GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "linux", "normal", "serial", "terminal")
"""What GRUB needs to read its menu from the partition and to start a kernel; the modules that these
need come by themselves."""
LABEL = "labctl-root"
"""Of the file system, by which the initramfs finds it."""
UUID = "6c616263-746c-4000-8000-6469736b0001"
DISK_ID = 0x6C616263
"""The disk's signature in its first sector."""
FEATURES = (
    "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,"
    "huge_file,dir_nlink,extra_isize,metadata_csum"
)
"""Said in full, so that no mke2fs.conf of a host counts; all are known to GRUB 2.06."""
_LINUX = 0x83
_ACTIVE = 0x80


def root(
    loaded: LoadedRecipe, source: Tree, release: str, scratch: Path, deadline: Deadline
) -> Tree:
    """Return what lies in the root file system: all of the packages but what the recipe leaves out.

    `scratch` is a folder to work in, not made yet. Raises `UsageError` naming what the recipe wants
    and the packages lack.
    """
    wanted = loaded.recipe.disk
    assert wanted is not None
    tree = Tree()
    for path, entry in source.entries.items():
        if not any(fnmatchcase(path, pattern) for pattern in wanted.exclude):
            tree.add(path, entry)
    closure.check_libraries(tree)
    closure.copy_modules(
        source, release, wanted.modules, tree, scratch, deadline=deadline, binary=True
    )
    for place, target in wanted.links.items():
        tree.add(place, Entry(0o777, link=target))
    for place, text in wanted.text.items():
        tree.add(place, Entry(0o644, text.encode()))
    for folder in ("boot", "dev", "proc", "run", "sys"):
        tree.add(folder, Entry(0o755))
    for folder, mode in wanted.folders.items():
        tree.add(folder, Entry(int(mode, 8)))
    return tree


def write(
    loaded: LoadedRecipe,
    source: Tree,
    release: str,
    initramfs: Path,
    scratch: Path,
    target: Path,
    deadline: Deadline,
) -> None:
    """Write a disk to the file `target`: the packages of `source`, their kernel, an initramfs.

    `scratch` is a folder to work in, not made yet. Raises `UsageError` for what the recipe lacks,
    `HostError` for a program that this host lacks, `CommandError` where the packages do not fit.
    """
    wanted = loaded.recipe.disk
    assert wanted is not None
    scratch.mkdir()
    tree = root(loaded, source, release, scratch / "modules", deadline)
    kernel = source.entries[f"boot/vmlinuz-{release}"]
    tree.add(f"boot/vmlinuz-{release}", kernel)
    tree.add(f"boot/initrd.img-{release}", Entry(0o644, initramfs))
    tree.add("boot/grub/grub.cfg", Entry(0o644, _menu(release, wanted.cmdline).encode()))
    staged = scratch / "root"
    _stage(tree, staged)
    _compile(staged, deadline)
    size = wanted.size << 20
    with target.open("wb") as disk:
        disk.write(_first_sector(source, size))
        disk.write(_core(source, scratch, deadline))
        if disk.tell() > START:
            raise UsageError("GRUB's core does not fit before the partition", "report this")
        disk.truncate(START + size)
    file_system(staged, target, START, size, deadline)


def file_system(staged: Path, target: Path, start: int, size: int, deadline: Deadline) -> None:
    """Make an ext4 file system of `size` bytes in a file, from the byte `start` on.

    It holds what the folder `staged` does, all of it root's; times in there are set by this. Raises
    `HostError` where e2fsprogs is not installed, `CommandError` where there is no room.
    """
    paths = _settle(staged)
    # By this all programs of e2fsprogs take the time for another (ext2fs_initialize).
    env = {"E2FSPROGS_FAKE_TIME": str(EPOCH)}
    made = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-N", "32768"]
    made += ["-O", FEATURES, "-L", LABEL, "-U", UUID, "-J", "size=4", "-m", "0", "-M", "/"]
    made += ["-E", f"offset={start},hash_seed={UUID},lazy_itable_init=0,root_owner=0:0"]
    made += ["-d", str(staged), str(target), f"{size >> 10}k"]
    run(made, deadline=deadline, package="e2fsprogs", env=env)
    script = "".join(_fixed(paths)).encode()
    words = ["debugfs", "-w", "-f", "-", f"{target}?offset={start}"]
    told = run(words, deadline=deadline, stdin=script, package="e2fsprogs", env=env, most=64 << 20)
    # It goes on after an error and exits with 0; its first line is its version.
    if wrong := told.stderr.splitlines()[1:]:
        raise LabctlError(f"debugfs cannot set what is in the image: {last_lines(wrong[0])}")


def _menu(release: str, cmdline: str) -> str:
    """Return GRUB's configuration: one kernel, started at once, all of it on the serial console."""
    return (
        "serial --unit=0 --speed=115200\n"
        "terminal_input serial\n"
        "terminal_output serial\n"
        "set timeout=0\n"
        "menuentry Debian {\n"
        f"  linux /boot/vmlinuz-{release} root=LABEL={LABEL} {cmdline}\n"
        f"  initrd /boot/initrd.img-{release}\n"
        "}\n"
    )


def _stage(tree: Tree, folder: Path) -> None:
    """Lay a tree out as files; whoever builds owns them."""
    folder.mkdir()
    for path, entry in tree.with_folders():
        place = folder / path
        if entry.link is not None:
            place.symlink_to(entry.link)
        elif entry.is_folder:
            place.mkdir()
            place.chmod(entry.mode | 0o700)
        else:
            place.write_bytes(entry.read())
            place.chmod(entry.mode)


def _compile(folder: Path, deadline: Deadline) -> None:
    """Compile the Python modules in a root file system with its own Python, as their packages do.

    An emulated guest would spend a minute on it at every start. This is the one program of the
    packages that runs: in namespaces of its own, without a network and with nothing of the host in
    view. What it writes does not depend on times (PEP 552), nor on the seed of hashes. With -B what
    it imports itself is not written by the import, which goes by times.
    """
    interpreters = sorted(folder.glob("usr/bin/python3.[0-9]*"))
    if not interpreters:
        return
    own = f"/usr/lib/{interpreters[-1].name}"
    words = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--ipc", "--pid", "--fork"]
    words += ["--kill-child", f"--root={folder}", "--wd=/", f"/usr/bin/{interpreters[-1].name}"]
    words += ["-I", "-S", "-B", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    folders = [
        path for path in (own, "/usr/lib/python3/dist-packages") if (folder / path[1:]).is_dir()
    ]
    run([*words, *folders], deadline=deadline, package="util-linux", env={"PYTHONHASHSEED": "0"})


def _settle(folder: Path) -> list[str]:
    """Give everything below a folder its time; return the paths, relative, in a fixed order."""
    paths = []
    for top, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            place = Path(top, name)
            os.utime(place, (EPOCH, EPOCH), follow_symlinks=False)
            paths.append(str(place.relative_to(folder)))
    os.utime(folder, (EPOCH, EPOCH))
    return sorted(paths)


def _fixed(paths: Iterable[str]) -> Iterator[str]:
    """Yield what debugfs(8) is to set of each path."""
    yield f"set_inode_field / ctime @{EPOCH}\n"
    for path in paths:
        quoted = path.replace('"', '""')
        for field, value in (("uid", "0"), ("gid", "0"), ("ctime", f"@{EPOCH}")):
            yield f'set_inode_field "/{quoted}" {field} {value}\n'


def _image(source: Tree, name: str) -> bytes:
    path = f"{GRUB}/{name}"
    if path not in source:
        raise UsageError(
            f"no package of the recipe holds {path}", "name grub-pc-bin among its `packages`"
        )
    return source.entries[path].read()


def _first_sector(source: Tree, size: int) -> bytes:
    """Return the first sector: GRUB's, with one partition in its table that takes all the rest.

    Its entries begin at 446: status, first head, type, last head, first sector, sectors. As with
    all disks of today the geometry says that only the numbers of sectors count.
    """
    boot = bytearray(_image(source, "boot.img")[:SECTOR])
    entry = struct.pack(
        "<B3sB3sII", _ACTIVE, b"\xfe\xff\xff", _LINUX, b"\xfe\xff\xff", START // SECTOR,
        size // SECTOR,
    )  # fmt: skip
    boot[440:SECTOR] = struct.pack("<IH", DISK_ID, 0) + entry + bytes(48) + b"\x55\xaa"
    return bytes(boot)


def _core(source: Tree, scratch: Path, deadline: Deadline) -> bytes:
    """Return GRUB's core for the sectors behind the first, made by grub-mkimage(1) of the host."""
    folder = scratch / "grub"
    folder.mkdir()
    for path, entry in source.entries.items():
        if path.startswith(f"{GRUB}/"):
            (folder / path.rpartition("/")[2]).write_bytes(entry.read())
    core = scratch / "core.img"
    words = ["grub-mkimage", "-d", str(folder), "-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub"]
    words += ["-o", str(core), *GRUB_MODULES]
    run(words, deadline=deadline, package="grub-common")
    return core.read_bytes()
