from __future__ import annotations

from pathlib import Path

import libarchive
import pytest

from labctl.errors import UsageError
from labctl.images.tree import Entry, Tree, normal


def sample(order: int = 1) -> Tree:
    tree = Tree()
    items = [
        ("/bin/tool", Entry(0o755, b"tool\n")),
        ("/sbin/other", Entry(0o777, link="../bin/tool")),
        ("/etc/odd", Entry(0o600, b"abcde")),
        ("/tmp", Entry(0o755)),
    ]
    for path, entry in items[::order]:
        tree.add(path, entry)
    return tree


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/bin/ip", "usr/bin/ip"),
        ("./lib/modules/x", "usr/lib/modules/x"),
        ("/lib64/ld.so", "usr/lib64/ld.so"),
        ("usr/bin/ip", "usr/bin/ip"),
        ("/library/x", "library/x"),
        ("./", ""),
    ],
)
def test_paths_are_relative_to_the_root_with_usr_merged(path: str, expected: str) -> None:
    assert normal(path) == expected


def test_a_path_that_leaves_the_root_is_refused() -> None:
    with pytest.raises(UsageError, match="leaves the root"):
        normal("/etc/../../x")


def test_the_archive_says_what_the_tree_holds(tmp_path: Path) -> None:
    sample().write_cpio(tmp_path / "a.cpio")
    found = {}
    with libarchive.file_reader(str(tmp_path / "a.cpio")) as archive:
        for entry in archive:
            data = b"".join(entry.get_blocks())
            link = entry.linkpath if entry.issym else None
            found[entry.pathname] = (oct(entry.mode), link, data, entry.uid, entry.mtime)
    assert found == {
        "bin": ("0o120777", "usr/bin", b"", 0, 0),
        "sbin": ("0o120777", "usr/sbin", b"", 0, 0),
        "etc": ("0o40755", None, b"", 0, 0),
        "etc/odd": ("0o100600", None, b"abcde", 0, 0),
        "tmp": ("0o40755", None, b"", 0, 0),
        "usr": ("0o40755", None, b"", 0, 0),
        "usr/bin": ("0o40755", None, b"", 0, 0),
        "usr/bin/tool": ("0o100755", None, b"tool\n", 0, 0),
        "usr/sbin": ("0o40755", None, b"", 0, 0),
        "usr/sbin/other": ("0o120777", "../bin/tool", b"", 0, 0),
    }


def test_the_archive_does_not_depend_on_the_order_things_were_added_in(tmp_path: Path) -> None:
    sample().write_cpio(tmp_path / "a.cpio")
    sample(-1).write_cpio(tmp_path / "b.cpio")
    assert (tmp_path / "a.cpio").read_bytes() == (tmp_path / "b.cpio").read_bytes()


def test_a_link_resolves_to_its_file_and_a_circle_to_nothing() -> None:
    tree = sample()
    tree.add("/usr/lib/a", Entry(0o777, link="b"))
    tree.add("/usr/lib/b", Entry(0o777, link="a"))
    tree.add("/etc/absolute", Entry(0o777, link="/sbin/other"))
    assert tree.resolve("/sbin/other") == "usr/bin/tool"
    assert tree.resolve("/etc/absolute") == "usr/bin/tool"
    assert tree.resolve("/lib/a") is None
    assert tree.resolve("/tmp") is None
    assert tree.resolve("/nowhere") is None
