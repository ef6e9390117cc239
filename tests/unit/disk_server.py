"""An HTTP server on loopback for disk images, which can do all that servers do wrong."""

from __future__ import annotations

import http.server
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from labctl.images import disk_cache
from labctl.sandbox.init import MARK


@dataclass
class Resource:
    """What lies at a path, and how it is sent."""

    data: bytes = b""
    etag: str = '"one"'
    modified: str = ""
    ranges: bool = True
    status: int = 200
    location: str = ""
    cut: int | None = None
    """Octets after which the connection is closed, once for each time in `cuts`."""
    cuts: int = 1
    length: int | None = None
    """What Content-Length says, where that is not true."""
    sized: bool = True
    chunked: bool = False
    more: bytes = b""
    """Sent behind what Content-Length says."""
    hang: str = ""
    """Where it goes silent: `at once`, or `within` what it sends; `drip` is an endless head."""
    lie: str = ""
    """A Content-Range that is not true."""


@dataclass
class Server:
    """The server: resources by path, and what was asked of it."""

    base: str
    resources: dict[str, Resource] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Of each request its path, Range and If-Range."""
    on_request: Callable[[], object] = lambda: None

    def add(self, name: str, data: bytes = b"", **how: Any) -> str:
        self.resources[f"/{name}"] = Resource(data, **how)
        return f"{self.base}/{name}"

    def ranges_asked(self) -> list[str]:
        return [one[1] for one in self.asked]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        told, over = self.server.told, self.server.over
        asked, condition = (self.headers.get(one, "") for one in ("Range", "If-Range"))
        told.asked.append((self.path, asked, condition))
        told.on_request()
        self.close_connection = True
        one = told.resources.get(self.path)
        if one is None:
            self.send_error(404)
            return
        if one.hang == "at once":
            over.wait()
            return
        if one.hang == "drip":
            with suppress(OSError):
                while not over.wait(0.05):
                    self.wfile.write(b"H")
            return
        found = re.fullmatch("bytes=([0-9]+)-", asked)
        first = int(found[1]) if found and one.ranges and self._is_same(one, condition) else 0
        status = 206 if first else one.status
        if first and first >= len(one.data):
            status = 416
        self.send_response(status)
        if one.location:
            self.send_header("Location", one.location)
        for name, value in (("ETag", one.etag), ("Last-Modified", one.modified)):
            if value:
                self.send_header(name, value)
        body = one.data[first:] if status != 416 else b""
        if status == 206:
            last = len(one.data) - 1
            self.send_header("Content-Range", one.lie or f"bytes {first}-{last}/{len(one.data)}")
        elif status == 416:
            self.send_header("Content-Range", f"bytes */{len(one.data)}")
        if one.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        elif one.sized:
            length = len(body) if one.length is None else one.length
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if one.cut is not None and one.cuts and len(body) > one.cut:
            one.cuts -= 1
            body = body[: one.cut]
        if one.hang == "within":
            body = body[: len(body) // 2]
        self.wfile.write(body + one.more)
        self.wfile.flush()
        if one.hang:
            over.wait()

    def _is_same(self, one: Resource, condition: str) -> bool:
        return not condition or condition in (one.etag, one.modified)


@contextmanager
def serving_at(certificate: Path | None = None) -> Iterator[Server]:
    """Serve on loopback, by TLS with a certificate whose key is in the same file."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        serving.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            serving.socket = context.wrap_socket(serving.socket, server_side=True)
            serving.handle_error = lambda *_: None  # type: ignore[method-assign]
        port = serving.server_address[1]
        told = Server(f"{'https' if certificate else 'http'}://127.0.0.1:{port}")
        over = threading.Event()
        serving.told, serving.over = told, over  # type: ignore[attr-defined]
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield told
        finally:
            over.set()
            serving.shutdown()
            thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, and no proxies."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)


@pytest.fixture
def server(cache: None) -> Iterator[Server]:  # noqa: ARG001
    """A server, and a cache of the test's own."""
    with serving_at() as told:
        yield told


def left_behind() -> list[str]:
    """Return what lies in the cache of disk images besides images that are whole."""
    top = disk_cache.root()
    whole = {one.path.parent.name for one in disk_cache.listed()} | {"parts", MARK}
    names = [one.name for one in top.iterdir()] if top.is_dir() else []
    parts = [f"parts/{one.name}" for one in disk_cache.parts().glob("*")]
    parts = [one for one in parts if not one.endswith(MARK)]
    return sorted([one for one in names if one not in whole] + parts)
