"""The soak of a Xen host finds what it must find: its pure parts, and each kind of corruption."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import libarchive
import pytest

from soak import place
from soak.__main__ import GUESTS, LONG_LIVED_EACH, Counts, flows, options_of, summary, victim
from soak.content import (
    MIB,
    Content,
    CorruptionError,
    archived_files,
    check_files,
    difference,
    digest,
    listed_files,
    scan,
)
from soak.place import MAKE, PEER, End, Flow

LOOPBACK = f"127.{os.getpid() >> 16 & 127}.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
"""An address of the loopback network that no other run of these tests uses."""


def test_a_content_differs_from_part_to_part_and_from_name_to_name() -> None:
    one, other = Content("a", 3), Content("b", 3)
    parts = [*one.parts(), *other.parts()]
    assert {len(part) for part in parts} == {MIB}
    pages = {part[at : at + 4096] for part in parts for at in range(0, MIB, 4096)}
    assert len(pages) == 6 * MIB // 4096, "no page is like another"
    assert one.slice(MIB - 2, 4) == parts[0][-2:] + parts[1][:2]
    assert digest(one.parts()) == digest(Content("a", 3).parts()) != digest(other.parts())


@pytest.mark.skipif(not shutil.which("perl"), reason="guests have perl, this machine has not")
def test_a_guest_makes_the_same_content_of_its_first_mebibyte(tmp_path: Path) -> None:
    content, made = Content("a", 5), tmp_path / "made"
    words = ["perl", "-e", MAKE, "--", str(made), "5"]
    subprocess.run(words, input=content.block, check=True)
    assert made.read_bytes() == content.slice(0, content.size)


@pytest.mark.skipif(not shutil.which("perl"), reason="guests have perl, this machine has not")
@pytest.mark.parametrize("spoil", [0, 1])
def test_peers_exchange_parts_of_their_files_and_can_spoil_one(tmp_path: Path, spoil: int) -> None:
    contents = {"listen": Content("a", 1), "connect": Content("b", 1)}
    running = {}
    for role, content in contents.items():
        file = tmp_path / role
        file.write_bytes(content.block)
        words = [
            role,
            LOOPBACK,
            "5001",
            file,
            12345,
            700001,
            1447,
            int(role == "connect") * spoil,
        ]
        argv = ["perl", "-e", PEER, "--", *map(str, words)]
        running[role] = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    told = {role: process.communicate()[0].split() for role, process in running.items()}
    sent = {
        role: hashlib.sha256(content.block[12345 : 12345 + 700001]).hexdigest()
        for role, content in contents.items()
    }
    assert told["connect"] == [sent["listen"], "-", "700001"]
    assert told["listen"][1:] == ["-", "700001"]
    assert (told["listen"][0] == sent["connect"]) is not spoil


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Content:
    """Let this machine play every guest, its memory filled with one content."""

    def ask(_lab: object, _name: str, line: str, stdin: bytes = b"") -> str:
        done = subprocess.run(["sh", "-c", line], input=stdin, capture_output=True, check=True)
        return done.stdout.decode()

    if not shutil.which("perl"):
        pytest.skip("guests have perl, this machine has not")
    monkeypatch.setattr(place, "ask", ask)
    monkeypatch.setattr(place, "MEMORY", str(tmp_path / "memory"))
    content = Content("here", 2)
    ask(None, "", place.perl(MAKE, place.MEMORY, content.mebibytes), content.block)
    return content


def test_memory_that_changed_is_corruption_and_its_place_is_named(here: Content) -> None:
    lab: Any = None
    expected = digest(here.parts())
    assert place.check_memory(lab, "vm1", here, expected) == 2 * MIB
    place.spoil_memory(lab, "vm1")
    with pytest.raises(CorruptionError, match=r"memory of vm1.*1 octets differ, from 0x12d687"):
        place.check_memory(lab, "vm1", here, expected)


def test_a_payload_that_changed_is_corruption_and_its_way_is_named(here: Content) -> None:
    lab: Any = None
    one, other = (End(name, {4: LOOPBACK}, here) for name in ("vm1", "vm2"))
    flow = Flow(4, 5002, 4321, 1234567, 4099)
    assert place.exchange(lab, one, other, flow) == 2 * 1234567
    with pytest.raises(CorruptionError, match="payload vm1 > vm2 over IPv4"):
        place.exchange(lab, one, other, flow, spoil=True)


def test_flows_lie_within_the_content_and_differ_from_pass_to_pass() -> None:
    chosen = flows("1/0", 24)
    assert [flow.version for flow in chosen] == [4, 6] * (len(chosen) // 2)
    assert len({flow.port for flow in chosen}) == len(chosen)
    assert all(0 <= flow.skip <= flow.skip + flow.length <= 24 * MIB for flow in chosen)
    assert chosen == flows("1/0", 24) != flows("1/1", 24)


def test_each_guest_is_made_anew_now_and_then_and_one_mostly() -> None:
    names = [victim(number) for number in range(1, 2 * LONG_LIVED_EACH + 1)]
    assert set(names) == set(GUESTS)
    assert names.count("vm3") == 2 * LONG_LIVED_EACH - 2


def test_files_of_an_image_are_those_of_its_archive(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr" / "program").write_bytes(b"program")
    (tmp_path / "usr" / "link").symlink_to("program")
    archive = tmp_path / "image.cpio"
    with libarchive.file_writer(str(archive), "cpio_newc") as writer:
        writer.add_file_from_memory("init", 4, b"init")
        writer.add_file_from_memory("etc/hosts", 5, b"hosts")
        writer.add_file_from_memory("usr/program", 7, b"program")
    assert archived_files(archive) == {
        "/init": hashlib.sha256(b"init").hexdigest(),
        "/usr/program": hashlib.sha256(b"program").hexdigest(),
    }


def test_what_sha256sum_prints_is_read() -> None:
    assert listed_files("aa  /usr/a b\nbb  /init\n") == {"/usr/a b": "aa", "/init": "bb"}


def test_files_that_differ_are_named() -> None:
    expected = {"/a": "1", "/b": "2", "/c": "3"}
    check_files("vm1", expected, dict(expected))
    with pytest.raises(CorruptionError) as error:
        check_files("vm1", expected, {"/a": "1", "/b": "9", "/d": "4"})
    for words in ("files of vm1", "/c is missing", "/d is not of the image", "/b is 9, must be 2"):
        assert words in str(error.value)
    assert "/a" not in str(error.value)


def test_a_difference_tells_where_it_is_and_what_it_is() -> None:
    assert difference(b"abcdef", b"abcdef") == ""
    told = difference(b"abcdef", b"abXdeY", 0x1000)
    assert told == "2 octets differ, from 0x1002 to 0x1005: 58646559 instead of 63646566"
    assert "3 octets instead of 6" in difference(b"abcdef", b"abc")


@pytest.mark.parametrize(
    "line",
    [
        "[    3.1] BUG: unable to handle page fault for address: ffff88800b",
        "[    3.1] BUG: Bad page state in process perl  pfn:01234",
        "[    3.1] Oops: 0000 [#1] PREEMPT SMP NOPTI",
        "[    3.1] WARNING: CPU: 0 PID: 1 at mm/slub.c:1 kfree+0x1/0x2",
        "[    3.1] traps: perl[80] general protection fault ip:7f0 sp:7ff error:0 in libc.so.6",
        "[    3.1] perl[80]: segfault at 8 ip 00007f sp 00007f error 4 in libc.so.6",
        "[    3.1] list_add corruption. prev->next should be next",
        "[    3.1] vif vif-1-0 vm1-eth0: Invalid extra type: 7",
        "[    3.1] Kernel panic - not syncing: Attempted to kill init!",
        "(XEN) mm.c:1234:d0v0 Bad L1 flags 800000",
        "(XEN) Xen BUG at common/page_alloc.c:1000",
        "(XEN) domain_crash called from arch/x86/pv/traps.c:1",
    ],
)
def test_trouble_in_a_log_is_corruption(line: str) -> None:
    with pytest.raises(CorruptionError, match="xen1 says"):
        scan("xen1", f"[    1.0] all is well\n{line}\n")


def test_a_log_of_a_healthy_or_a_busy_machine_is_none() -> None:
    late = "[   97.2] tsc: Marking TSC unstable due to clocksource watchdog"
    text = f"""\
[    2.0] PCI: Using host bridge windows from ACPI; if necessary, use "pci=nocrs" and report a bug
[    2.1] x86/mm: Checked W+X mappings: passed, no W+X pages found.
[   11.9] lan: port 1(vm1-eth0) entered disabled state
[   14.8] vif vif-1-0 vm1-eth0: Guest Rx ready
(XEN) Freed 668kB init memory
{late}
"""
    assert scan("xen1", text) == [late]


def test_a_summary_says_what_was_compared() -> None:
    counts = Counts(rounds=7, creations=8, flows=16, sent=2_500_000_000, digests=900)
    text = summary(counts, 30.0)
    for words in ("30.0 minutes", "7 rounds", "8 guests", "900 digests", "2.50 GB, 16 flows"):
        assert words in text


def test_options_have_the_lab_s_own_model_as_default() -> None:
    from labctl.guests import xen_host

    assert options_of([]).cpu == xen_host.CPU
    assert options_of(["--cpu", "max"]).cpu == "max"
