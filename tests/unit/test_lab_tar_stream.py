"""The archive that a guest sends: what tar writes is read, and a liar gets nowhere."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.lab import tar_stream
from labctl.lab.tar_stream import BLOCK, NothingError, Reader, TarError

LONG = "x/" + "/".join("long" * 20 for _ in range(9))


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mode, info.mtime = kind, len(data), link, 0o4755, 7
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % BLOCK)


def unpacked(stream: bytes, root: str = "x") -> tuple[dict[str, bytes], Reader]:
    reader = Reader(io.BytesIO(stream), root)
    found = {}
    for one in reader.members():
        found["/".join(one.path) + "/" * one.is_folder] = b"".join(reader.data())
        assert one.mode == 0o755
        assert one.mtime == 7
    return found, reader


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_what_tar_writes_is_read(form: int) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, data in (("./x", None), ("./x/a", b"a" * 700), ("./x/" + "b" * 90, b"")):
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = 0o755, 7
            info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            info.size = len(data or b"")
            archive.addfile(info, io.BytesIO(data or b""))
    found, _ = unpacked(file.getvalue())
    assert found == {"x/": b"", "x/a": b"a" * 700, "x/" + "b" * 90: b""}


def test_a_long_name_is_read_and_counts_for_one_member_alone() -> None:
    found, _ = unpacked(member(LONG, data=b"1") + member("x/b", data=b"2") + bytes(BLOCK))
    assert found == {LONG: b"1", "x/b": b"2"}


def test_links_and_devices_are_left_out_and_counted() -> None:
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    some = b"".join(member(f"x/{kind!r}", kind, link="/etc/passwd") for kind in kinds)
    found, reader = unpacked(some + member("x/a", data=b"a") + bytes(BLOCK))
    assert found == {"x/a": b"a"}
    assert reader.skipped == len(kinds)


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "x/../../y", "y", "x/../y", "x//y", "./../x", "", ".", "x/.", "xx", "./", "/"],
)
def test_what_leads_out_of_what_was_asked_for_is_refused(name: str) -> None:
    info = tarfile.TarInfo("x")
    head = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    head[:100] = name.encode().ljust(100, b"\0")
    with pytest.raises(TarError, match="not asked for"):
        unpacked(summed(head) + bytes(BLOCK))


def summed(head: bytearray) -> bytes:
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return bytes(head)


def changed(place: int, value: bytes, kind: bytes = b"0") -> bytes:
    head = bytearray(member("x", kind))
    head[place : place + len(value)] = value
    return summed(head)


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        (changed(124, b"\x80" + b"\xff" * 11), "GiB"),
        (changed(124, b"\xff" * 12), "none"),
        (changed(124, b"99999999999\0"), "none"),
        (changed(124, b"77777777777\0", b"L"), "longer than"),
        (changed(124, b"00000001000\0", b"5"), "folder"),
        (member("x", data=b"a" * 600)[:-512], "ends in the middle"),
        (member("x")[:100], "ends in the middle"),
        (member("x"), "ends in the middle"),
        (b"Welcome to the guest!\n" * 40, "no tar archive"),
    ],
)
def test_a_stream_that_is_none_is_an_error(stream: bytes, told: str) -> None:
    with pytest.raises(TarError, match=told):
        unpacked(stream)


def test_a_stream_without_end_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_stream, "MOST_MEMBERS", 50)
    folders = member("x", tarfile.DIRTYPE) * 1000
    with pytest.raises(TarError, match="more than 50 files"):
        for _ in Reader(io.BytesIO(folders), "x").members():
            pass
    with pytest.raises(TarError, match="more than 50 files"):
        for _ in Reader(io.BytesIO(member("n" * 200, b"L") * 1000), "x").members():
            pass


def test_of_nothing_is_told_apart() -> None:
    with pytest.raises(NothingError):
        unpacked(b"")


@given(
    st.lists(st.tuples(st.integers(0, BLOCK - 1), st.integers(0, 255)), max_size=4),
    st.booleans(),
)
def test_damage_is_an_error_or_harmless(places: list[tuple[int, int]], repaired: bool) -> None:
    head = bytearray(member("x"))
    for place, value in places:
        head[place] = value
    stream = (summed(head) if repaired else bytes(head)) + bytes(2 * BLOCK)
    reader = Reader(io.BytesIO(stream), "x")
    try:
        for one in reader.members():
            assert one.path[0] == "x"
            assert not {"", ".", ".."} & set(one.path)
            assert 0 <= one.mode <= 0o777
    except TarError:
        pass
