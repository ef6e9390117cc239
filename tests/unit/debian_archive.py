"""A Debian archive made for tests: packages, a recipe and its lock, served on loopback."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from labctl.images import cache

RELEASE = "9.9-test"


def deb(files: Mapping[str, bytes | str]) -> bytes:
    """A Debian package; a `str` is a symbolic link's target."""

    def tar(content: Mapping[str, bytes | str]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
            for name, value in content.items():
                info = tarfile.TarInfo(f"./{name}")
                info.mode = 0o755
                if isinstance(value, str):
                    info.type, info.linkname = tarfile.SYMTYPE, value
                    archive.addfile(info)
                else:
                    info.size = len(value)
                    archive.addfile(info, io.BytesIO(value))
        return buffer.getvalue()

    package = b"!<arch>\n"
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": tar({"control": b"Package: x\nVersion: 1\nArchitecture: all\n"}),
        "data.tar.xz": tar(files),
    }
    for name, data in members.items():
        package += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        package += data + b"\n" * (len(data) % 2)
    return package


PACKAGES = {
    "linux-image-test": deb({f"boot/vmlinuz-{RELEASE}": b"a kernel"}),
    "tools": deb({"bin/tool": b"#!/bin/sh\n", "usr/bin/busybox": b"box", "sbin/t": "../bin/tool"}),
    "linux-image-two": deb({"boot/vmlinuz-1": b"1", "boot/vmlinuz-2": b"2"}),
    "shell": deb({"bin/sh": Path("/bin/sh").read_bytes()}),
    "linked": deb({"usr/bin/dangling": "nowhere"}),
    "xen-test": deb({"boot/xen-9.amd64.gz": gzip.compress(b"a hypervisor")}),
    "broken": b"not a package at all",
}

RECIPE: dict[str, Any] = {
    "description": "a test image",
    "suite": "bookworm",
    "kernel": "linux-image-test",
    "memory": 64,
    "packages": ["tools"],
    "files": ["usr/bin/tool", "usr/sbin/*"],
    "applets": "ls cat",
    "add": {"/init": {"file": "init", "mode": "755"}},
    "links": {"/etc/mtab": "/proc/mounts"},
    "text": {"/etc/hosts": "127.0.0.1 localhost\n"},
}


class Archive:
    """A Debian archive's pool on loopback, and one recipe with its lock."""

    def __init__(self, base: str, top: Path) -> None:
        self.base = base
        self.pool = top / "mirror/pool/main"
        self.recipes = top / "config/labctl/images"
        self.pool.mkdir(parents=True)
        for name, data in PACKAGES.items():
            (self.pool / f"{name}.deb").write_bytes(data)

    def write(self, name: str = "mine", /, **changes: Any) -> Path:
        folder = self.recipes / name
        folder.mkdir(parents=True, exist_ok=True)
        content = {**RECIPE, **changes}
        content = {key: value for key, value in content.items() if value is not None}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
        (folder / "init").write_text("#!/bin/sh\n")
        if "kernel" in content and "packages" in content:
            hypervisor = [content["hypervisor"]] if "hypervisor" in content else []
            names = [content["kernel"], *content["packages"], *hypervisor]
            self.lock(folder, content["kernel"], names)
        return folder

    def lock(self, folder: Path, kernel: str, names: list[str]) -> None:
        packages = [
            {
                "name": name,
                "version": "1.2-3",
                "sha256": hashlib.sha256(PACKAGES[name]).hexdigest(),
                "size": len(PACKAGES[name]),
                "path": f"pool/main/{name}.deb",
            }
            for name in names
        ]
        content = {
            "archive": "debian",
            "suite": "bookworm",
            "kernel": kernel,
            "kernel_package": kernel,
            "packages": packages,
        }
        (folder / "lock.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "mirror"))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("LABCTL_DEBIAN_MIRROR", base)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(variable, raising=False)
        try:
            yield Archive(base, tmp_path)
        finally:
            server.shutdown()
            thread.join()


def left_behind() -> list[str]:
    top = cache.root()
    return sorted(str(path.relative_to(top)) for path in top.glob("images/[!.]*/*"))
