"""Downloads by HTTP that go on where they were interrupted, and one process at a time for a URL.

What has come lies in a part file, whose lock its downloader holds, with notes beside it on which
version of the resource it is of. The next downloader asks for the rest with Range and If-Range (RFC
9110, 13.1.5 and 14.2): a server that has another version by now, or knows no ranges, sends all.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from labctl.errors import DeadlineError, HostError, LabctlError, host_error
from labctl.events import Emit, Event
from labctl.images import disk_cache
from labctl.sandbox import atomic, codec, documents, lock, owned
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.init import MARK
from labctl.topology.disk_image import file_name
from labctl.version import __version__

SILENCE = 30.0
"""Seconds without an octet after which a server counts as silent."""
PACE_SECONDS, PACE_BYTES = 60.0, 64 << 10
"""In so many seconds so many octets must come: who sends one now and then is as good as silent."""
MOST = 1 << 37
"""Octets of a download: 128 GiB."""
MOST_REDIRECTS = 5
ATTEMPTS = 5
"""So often a transfer is tried that breaks off after it has brought something."""
WAIT_SECONDS = 3600.0
"""For another process that downloads the same."""
KEPT_SECONDS = 7 * 86400.0
"""A part that nobody has gone on with for so long is removed."""
_BLOCK = 1 << 16
_TOLD_SECONDS = 0.2
_AGAIN = "run it again: it goes on from there, where the server can"
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
NOTES, VERSION = "download", 1


@dataclass(frozen=True)
class _Notes:
    """Which version of a resource a part is of, by what its server said."""

    etag: str = ""
    modified: str = ""

    @property
    def validator(self) -> str:
        """What If-Range takes: a strong entity tag, else a date; empty where there is neither."""
        return self.etag if self.etag.startswith('"') else self.modified


class BrokenOffError(LabctlError):
    """A transfer that ended too early, and may go on."""


class Part:
    """The part file of a URL, locked by this process."""

    def __init__(self, url: str, path: Path, handle: int) -> None:
        """Hold a part; `handle` is its open file."""
        self.url, self.path, self._handle = url, path, handle
        self._notes = path.with_suffix(".notes")

    @property
    def name(self) -> str:
        """What is downloaded, in short."""
        return file_name(self.url)

    def validator(self) -> str:
        """Return what tells the server which version this is of; empty where that is not known."""
        try:
            notes: _Notes = documents.loads(self._notes.read_bytes(), _Notes, NOTES, VERSION)
        except (OSError, codec.CodecError):
            return ""
        return notes.validator

    def begin(self, notes: _Notes) -> None:
        """Forget what has come; what comes now is of another version."""
        os.ftruncate(self._handle, 0)
        atomic.write(self._notes, documents.dumps(notes, _Notes, NOTES, VERSION))

    @contextlib.contextmanager
    def opened(self) -> Iterator[BufferedRandom]:
        """Give the file to read and to append to; it stays open and locked."""
        with os.fdopen(os.dup(self._handle), "r+b") as file:
            yield file

    def discard(self) -> None:
        """Remove it."""
        for one in (self._notes, self.path):
            one.unlink(missing_ok=True)


@contextlib.contextmanager
def part_of(url: str) -> Iterator[Part]:
    """Hold the part file of a URL for the length of the `with` block; it stays unless discarded.

    Parts that nobody goes on with are removed first. Raises `DeadlineError` when another process
    holds it for too long, `HostError` where the cache cannot be written to, also when that shows
    in the `with` block only.
    """
    folder = disk_cache.parts()
    path = folder / f"{hashlib.sha256(url.encode()).hexdigest()}.part"
    deadline = Deadline(WAIT_SECONDS, f"waiting for another download of {url}")
    try:
        owned.claim(disk_cache.root())
        owned.claim(folder)
        _sweep(folder)
        done = False
        while not done:
            with lock.held(path, deadline) as handle:
                # Whoever had it locked until now may have removed it.
                if done := _is_there(path, handle):
                    yield Part(url, path, handle)
    except OSError as error:
        told = LabctlError(f"{error.filename or folder}: {error.strerror}", "run it again")
        raise host_error(error, folder) or told from None


def _is_there(path: Path, handle: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.lstat())
    return False


def _sweep(folder: Path) -> None:
    """Remove old parts that nobody has locked, and what writers of notes have left."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError, DeadlineError, HostError):
            if path.name == MARK or time.time() - path.stat().st_mtime < KEPT_SECONDS:
                continue
            if path.suffix == ".part":
                with lock.held(path, Deadline(0.0, "")) as handle:
                    Part("", path, handle).discard()
            elif not path.with_suffix(".part").exists():
                path.unlink()


def fetch(part: Part, emit: Emit, *, pinned: bool) -> str:
    """Download the rest of a part's URL; return the SHA-256 of the whole, in hex.

    Unless its digest is `pinned`, a server must say how long it is: else one that breaks off could
    not be told from the end. Raises `LabctlError` for what the server does wrong or does not do,
    `HostError` where the disk has no room, `OSError` where it refuses. Then the part stays, to go
    on from.
    """
    with part.opened() as file:
        attempt = 1
        while True:
            before = file.seek(0, os.SEEK_END)
            try:
                _transfer(part, file, emit, pinned)
                break
            except BrokenOffError:
                file.flush()
                attempt += 1
                if attempt > ATTEMPTS or file.seek(0, os.SEEK_END) <= before:
                    raise
        file.flush()
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _transfer(part: Part, file: BufferedRandom, emit: Emit, pinned: bool) -> None:
    """Ask for what is missing, and append it; raises `BrokenOffError`."""
    have = file.seek(0, os.SEEK_END)
    validator = part.validator() if have else ""
    rest = {"Range": f"bytes={have}-", "If-Range": validator} if validator else {}
    with contextlib.closing(_ask(part.url, rest)) as answer:
        if (
            rest
            and answer.status == 416
            and answer.headers.get("Content-Range") == f"bytes */{have}"
        ):
            return  # nothing was missing
        if rest and answer.status == 206:
            _check_rest(part.url, answer, have)
        elif answer.status == 200:
            have = 0
            etag, modified = (answer.headers.get(one, "") for one in ("ETag", "Last-Modified"))
            part.begin(_Notes(etag, modified))
            file.seek(0)
        else:
            part.discard()
            raise _refused(part.url, answer.status)
        total = None if answer.length is None else have + answer.length
        if total is None and not answer.chunked and not pinned:
            what = "does not say how long it is, so whether it came whole cannot be told"
            raise LabctlError(f"the server of {part.url} {what}", "write its sha256 yourself")
        _check_room(part, total, have)
        told = 0.0
        for block in _blocks(part.url, answer):
            file.write(block)
            have += len(block)
            if have > MOST:
                what = f"{part.url} is larger than the {MOST >> 30} GiB that are taken"
                raise LabctlError(what, "look at the URL: it may be of something else")
            if time.monotonic() - told > _TOLD_SECONDS:
                told = time.monotonic()
                emit(_progress(part.name, have, total))
    if total is not None and have < total:
        raise BrokenOffError(f"{part.url} broke off after {have} of {total} bytes", _AGAIN)


def _progress(name: str, have: int, total: int | None) -> Event:
    if not total:
        return Event("image", name, "progress", f"{have / 1e6:.1f} MB")
    told = f"{have / 1e6:.1f} of {total / 1e6:.1f} MB"
    return Event("image", name, "progress", told, 0.9 * have / total)


def _check_rest(url: str, answer: http.client.HTTPResponse, have: int) -> None:
    """Raise `LabctlError` unless an answer is all that is missing."""
    told = answer.headers.get("Content-Range", "")
    found = _RANGE.fullmatch(told)
    if found:
        first, last = int(found[1]), int(found[2])
        whole = found[3] in ("*", str(last + 1))
        if first == have and whole and answer.length in (None, last + 1 - have):
            return
    raise LabctlError(
        f"{url} was asked for all from byte {have} on, and sends: {told[:80] or 'no range'}",
        "write file: PATH, with what you have downloaded yourself",
    )


def _check_room(part: Part, total: int | None, have: int) -> None:
    """Raise `HostError` where the disk cannot hold what is to come."""
    if total is None:
        return
    if total > MOST:
        what = f"{part.url} is {total >> 30} GiB; at most {MOST >> 30} GiB are taken"
        raise LabctlError(what, "look at the URL: it may be of something else")
    free = shutil.disk_usage(part.path.parent).free
    if total - have > free:
        raise HostError(
            f"{part.url} needs {(total - have) / 1e6:.0f} MB more, "
            f"and {part.path.parent} has {free / 1e6:.0f} MB left",
            "free some space there, or set XDG_CACHE_HOME to a folder with more",
        )


class _AsItComes(urllib.request.HTTPErrorProcessor):
    """Returns every answer as it is.

    urllib's own way with redirects reads all of what comes with one, however much that is.
    """

    def http_response(self, request: Any, response: Any) -> Any:  # noqa: ARG002
        return response

    def https_response(self, request: Any, response: Any) -> Any:  # noqa: ARG002
        return response


class _Patient(http.client.HTTPConnection):
    """Waits for the head of an answer once, not once for each octet of it."""

    def getresponse(self) -> http.client.HTTPResponse:
        late = threading.Event()
        line = self.sock

        def give_up() -> None:
            late.set()
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(SILENCE, give_up)
        timer.start()
        try:
            return super().getresponse()
        finally:
            timer.cancel()
            if late.is_set():
                raise TimeoutError


class _PatientTLS(http.client.HTTPSConnection, _Patient):
    """Likewise, and checks certificates, as its parent does."""


class _Plain(urllib.request.HTTPHandler):
    def http_open(self, request: Any) -> Any:
        return self.do_open(_Patient, request)


class _TLS(urllib.request.HTTPSHandler):
    def https_open(self, request: Any) -> Any:
        return self.do_open(_PatientTLS, request)


def _ask(url: str, more: dict[str, str]) -> http.client.HTTPResponse:
    """Ask for a URL; return the answer, whatever its status, with the octets still to come.

    Follows redirects, but from HTTPS to nothing else. Certificates are checked against those that
    the system trusts. Proxies are those of the environment (http_proxy, no_proxy, …).
    Raises `LabctlError`.
    """
    opener = urllib.request.build_opener(_AsItComes, _Plain, _TLS)
    headers = {"User-Agent": f"labctl/{__version__}", "Accept-Encoding": "identity", **more}
    place = url
    for _ in range(MOST_REDIRECTS + 1):
        try:
            request = urllib.request.Request(place, headers=headers)
            answer: http.client.HTTPResponse = opener.open(request, timeout=SILENCE)
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            raise _unreachable(url, error) from None
        if answer.status not in (301, 302, 303, 307, 308):
            return answer
        location = answer.headers.get("Location") or ""
        answer.close()
        place = _redirected(url, place, location)
    raise LabctlError(f"{url} redirects more than {MOST_REDIRECTS} times", "look at the URL")


def _redirected(url: str, place: str, location: str) -> str:
    """Return where a redirect leads; raises `LabctlError` where that is not gone to."""
    try:
        new = urljoin(place, location)
        old, scheme = urlsplit(place).scheme, urlsplit(new).scheme
    except ValueError:
        old = scheme = ""
    if not location or scheme not in ("http", "https") or (old, scheme) == ("https", "http"):
        raise LabctlError(
            f"{url} redirects to what is not gone to: {location[:200] or 'nowhere'}",
            "http and https are, but not from https to http",
        )
    return new


def _refused(url: str, status: int) -> LabctlError:
    gone = "there is nothing at" if status in (404, 410) else "the server refused"
    return LabctlError(f"{gone} {url} (HTTP {status})", "look at the URL in a browser")


def _unreachable(url: str, error: BaseException) -> LabctlError:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return BrokenOffError(f"{url}: nothing came for {SILENCE:g} s", _AGAIN)
    words = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return LabctlError(f"{url} cannot be fetched: {words}", "look at the URL, and at the network")


def _blocks(url: str, answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield what comes; raises `BrokenOffError` where it stops coming, or breaks off."""
    pace, came = Deadline(PACE_SECONDS, ""), 0
    while True:
        try:
            block = answer.read1(_BLOCK)
        except (http.client.HTTPException, OSError) as error:
            wrong = _unreachable(url, error)
            raise BrokenOffError(wrong.message, _AGAIN) from None
        if not block:
            return
        yield block
        came += len(block)
        if pace.passed:
            if came < PACE_BYTES:
                raise BrokenOffError(
                    f"{url}: {came} bytes came in {PACE_SECONDS:g} s, which is too slow",
                    _AGAIN,
                )
            pace, came = Deadline(PACE_SECONDS, ""), 0
