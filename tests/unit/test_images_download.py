"""Downloads go on where they broke off, and whatever a server does wrong is told as that."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from disk_server import Server, serving_at

from labctl.errors import DeadlineError, HostError, LabctlError
from labctl.events import Event, silent
from labctl.images import disk_cache, download
from labctl.sandbox import owned

pytest_plugins = ["disk_server"]

DATA = random.Random(1).randbytes(300_000)
SUM = hashlib.sha256(DATA).hexdigest()


def fetch(url: str, pinned: bool = True) -> str:
    with download.part_of(url) as part:
        return download.fetch(part, silent, pinned=pinned)


def parts() -> list[Path]:
    return sorted(disk_cache.parts().glob("*.part"))


def test_what_comes_is_hashed_and_lies_in_the_part(server: Server) -> None:
    assert fetch(server.add("a.raw", DATA)) == SUM
    (part,) = parts()
    assert part.read_bytes() == DATA
    assert part.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("how", "condition"),
    [
        ({"etag": '"v1"'}, '"v1"'),
        (
            {"etag": "", "modified": "Tue, 01 Dec 2026 00:00:00 GMT"},
            "Tue, 01 Dec 2026 00:00:00 GMT",
        ),
        # A weak tag says nothing of octets (RFC 9110, 13.1.5).
        (
            {"etag": 'W/"v1"', "modified": "Tue, 01 Dec 2026 00:00:00 GMT"},
            "Tue, 01 Dec 2026 00:00:00 GMT",
        ),
    ],
)
def test_a_transfer_that_is_cut_goes_on_from_there(
    server: Server, how: dict[str, Any], condition: str
) -> None:
    url = server.add("a.raw", DATA, cut=100_000, **how)
    assert fetch(url) == SUM
    assert server.asked == [("/a.raw", "", ""), ("/a.raw", "bytes=100000-", condition)]


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"ranges": False}, id="no ranges"),
        pytest.param({"etag": 'W/"weak"'}, id="weak tag alone"),
        pytest.param({"etag": ""}, id="no validator"),
    ],
)
def test_where_a_server_cannot_go_on_it_starts_again(server: Server, how: dict[str, Any]) -> None:
    url = server.add("a.raw", DATA, cut=100_000, **how)
    try:
        assert fetch(url) == SUM
    except download.BrokenOffError:  # without progress the next run tries
        assert fetch(url) == SUM
    assert parts()[0].read_bytes() == DATA


def test_another_version_is_not_joined_to_what_came_of_the_first(server: Server) -> None:
    url = server.add("a.raw", DATA, cut=100_000, cuts=9, etag='"old"')

    def change() -> None:
        if len(server.asked) == 2:
            server.add("a.raw", DATA[::-1], etag='"new"')

    server.on_request = change
    assert fetch(url) == hashlib.sha256(DATA[::-1]).hexdigest()
    assert parts()[0].read_bytes() == DATA[::-1]


def test_a_part_that_was_whole_already_is_taken_as_it_is(server: Server) -> None:
    url = server.add("a.raw", DATA)
    assert fetch(url) == fetch(url) == SUM
    assert server.ranges_asked() == ["", "bytes=300000-"]


def test_a_download_that_is_killed_is_gone_on_with_by_the_next(server: Server) -> None:
    url = server.add("a.raw", DATA, hang="within")
    code = (
        "from labctl.images import download; from labctl.events import silent\n"
        f"with download.part_of({url!r}) as part: download.fetch(part, silent, pinned=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ}) as child:
        try:
            wait_for(lambda: bool(parts()) and parts()[0].stat().st_size > 0)
        finally:
            child.kill()
    have = parts()[0].stat().st_size
    assert 0 < have < len(DATA)
    server.resources["/a.raw"].hang = ""
    assert fetch(url) == SUM
    assert server.ranges_asked() == ["", f"bytes={have}-"]


def wait_for(is_so: Callable[[], bool]) -> None:
    moment = threading.Event()
    for _ in range(3000):
        if is_so():
            return
        moment.wait(0.02)
    raise AssertionError("it never came")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"status": 404}, r"there is nothing at .*a\.raw \(HTTP 404\)"),
        ({"status": 403}, r"the server refused .*a\.raw \(HTTP 403\)"),
        ({"status": 500}, r"the server refused .* \(HTTP 500\)"),
        ({"status": 204}, r"the server refused .* \(HTTP 204\)"),
        ({"status": 302, "location": "/a.raw"}, "redirects more than 5 times"),
        ({"status": 302}, "redirects to what is not gone to: nowhere"),
        ({"status": 301, "location": "file:///etc/passwd"}, "not gone to: file:///etc/passwd"),
        ({"status": 307, "location": "ftp://x/y"}, "not gone to"),
        ({"status": 302, "location": "http://[x"}, "not gone to"),
        ({"cut": 1000, "cuts": 99, "ranges": False}, "broke off after 1000 of 300000 bytes"),
        ({"length": 1 << 60}, "at most 128 GiB are taken"),
    ],
)
def test_what_a_server_does_wrong_is_told(server: Server, how: dict[str, Any], told: str) -> None:
    with pytest.raises(LabctlError, match=told) as caught:
        fetch(server.add("a.raw", DATA, **how))
    assert caught.value.hint


def test_a_redirect_from_https_to_http_is_not_gone() -> None:
    with pytest.raises(LabctlError, match="not gone to: http://b/"):
        download._redirected("https://a/x", "https://a/x", "http://b/")
    assert download._redirected("https://a/x", "https://a/x", "//b/y") == "https://b/y"
    assert download._redirected("http://a/x/y", "http://a/x/y", "z?q=1") == "http://a/x/z?q=1"


def test_a_redirect_leads_to_the_image(server: Server) -> None:
    server.add("real.raw", DATA)
    url = server.add("a.raw", b"moved", status=302, location="/real.raw")
    assert fetch(url) == SUM


def test_what_comes_with_a_redirect_is_not_read(server: Server) -> None:
    """It may be without end."""
    server.add("real.raw", DATA)
    url = server.add("a.raw", b"x", status=302, location="/real.raw", hang="within")
    assert fetch(url) == SUM


@pytest.fixture
def secure(cache: None, tmp_path: Path) -> Iterator[Server]:  # noqa: ARG001
    """A server by TLS, whose certificate only `tmp_path/"server.pem"` vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "labctl test")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "server.pem").write_bytes(certificate.public_bytes(pem) + private)
    with serving_at(tmp_path / "server.pem") as told:
        yield told


def test_a_certificate_that_nobody_vouches_for_is_refused(
    secure: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = secure.add("a.raw", DATA)
    with pytest.raises(LabctlError, match=r"cannot be fetched: .*certificate verify failed"):
        fetch(url)
    assert parts()[0].stat().st_size == 0
    assert secure.asked == []
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))  # the system's, by OpenSSL
    assert fetch(url) == SUM


@pytest.mark.parametrize("where", ["at once", "within", "drip"])
def test_a_server_that_goes_silent_is_not_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(download, "SILENCE", 0.2)
    url = server.add("a.raw", DATA, hang=where)
    with pytest.raises(LabctlError, match=r"nothing came for 0\.2 s") as caught:
        fetch(url)
    assert "it goes on from there" in caught.value.hint
    server.resources["/a.raw"].hang = ""
    assert fetch(url) == SUM


def test_a_server_that_sends_too_slowly_is_as_good_as_silent(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PACE_SECONDS", 0.0)
    monkeypatch.setattr(download, "PACE_BYTES", 1 << 30)
    with pytest.raises(LabctlError, match="which is too slow"):
        fetch(server.add("a.raw", DATA))


@pytest.mark.usefixtures("cache")
def test_nothing_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(LabctlError, match="cannot be fetched: Connection refused"):
        fetch(f"http://127.0.0.1:{port}/a.raw")


def test_what_is_sent_beyond_the_length_is_left(server: Server) -> None:
    assert fetch(server.add("a.raw", DATA, more=b"more" * 1000)) == SUM
    assert parts()[0].stat().st_size == len(DATA)


def test_without_end_no_more_is_taken_than_may_be(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MOST", 200_000)
    with pytest.raises(LabctlError, match="is larger than"):
        fetch(server.add("a.raw", DATA, sized=False))


def test_a_rest_that_is_another_one_is_not_taken(server: Server) -> None:
    url = server.add("a.raw", DATA, cut=100_000, lie="bytes 5-299999/300000")
    with pytest.raises(LabctlError, match="asked for all from byte 100000 on, and sends: bytes 5-"):
        fetch(url)


@pytest.mark.parametrize("pinned", [True, False])
def test_without_a_length_only_a_digest_can_tell_that_it_came_whole(
    server: Server, pinned: bool
) -> None:
    url = server.add("a.raw", DATA, sized=False)
    if pinned:
        assert fetch(url) == SUM
    else:
        with pytest.raises(LabctlError, match="whether it came whole cannot be told"):
            fetch(url, pinned=False)


def test_chunks_have_an_end(server: Server) -> None:
    assert fetch(server.add("a.raw", DATA, chunked=True), pinned=False) == SUM
    url = server.add("b.raw", DATA, chunked=True, cut=100_000, cuts=9, etag="")
    with pytest.raises(download.BrokenOffError):
        fetch(url, pinned=False)


def test_a_disk_that_fills_is_no_fault_of_the_server(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BufferedRandom):
        def write(self, _data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")  # it names no file

    @contextlib.contextmanager
    def opened(part: download.Part) -> Iterator[io.BufferedRandom]:
        with Full(part.path.open("r+b", buffering=0)) as file:
            yield file

    monkeypatch.setattr(download.Part, "opened", opened)
    with pytest.raises(HostError, match="No space left on device") as caught:
        fetch(server.add("a.raw", DATA))
    assert "free some space" in caught.value.hint


def test_a_part_that_is_removed_meanwhile_is_told(server: Server) -> None:
    url = server.add("a.raw", DATA)
    server.on_request = lambda: owned.remove(disk_cache.parts())  # as image rm --all does
    with pytest.raises(LabctlError, match=r"\.notes.*: No such file or directory") as caught:
        fetch(url)
    assert caught.value.hint == "run it again"


def test_a_disk_that_has_too_little_room_is_told_before_it_is_full(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(HostError, match="has 0 MB left"):
        fetch(server.add("a.raw", DATA))
    assert parts()[0].stat().st_size == 0


def test_who_comes_second_waits_and_the_lock_is_of_the_part_that_is_there(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.add("a.raw", DATA)
    monkeypatch.setattr(download, "WAIT_SECONDS", 0.1)
    with download.part_of(url) as part:
        with pytest.raises(DeadlineError, match="waiting for another download of"):
            fetch(url)
        part.discard()
        with download.part_of(url) as other:  # another file by now
            assert other.path.exists()


def test_old_parts_go_and_those_in_use_stay(server: Server) -> None:
    urls = [server.add(f"{name}.raw", DATA, cut=10, cuts=9, etag="") for name in "ab"]
    for url in urls:
        with pytest.raises(LabctlError):
            fetch(url)
    assert len(parts()) == 2
    with download.part_of(urls[0]):
        for one in disk_cache.parts().iterdir():
            os.utime(one, (0, 0))
        with download.part_of(server.add("c.raw", DATA)) as part:
            assert len(parts()) == 2
            assert part.path in parts()


def test_progress_is_told(server: Server) -> None:
    told: list[Event] = []
    with download.part_of(server.add("a.raw", DATA)) as part:
        download.fetch(part, told.append, pinned=True)
    assert told
    assert told[0].subject == "a.raw"
    assert "of 0.3 MB" in told[0].detail
    assert all(0 <= (one.fraction or 0) <= 0.9 for one in told)
