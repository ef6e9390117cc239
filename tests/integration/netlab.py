"""A throw-away network of namespaces for one test: gone with the process that made it."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import signal
import socket
import struct
import subprocess
import threading
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec

import pytest
from pyroute2 import IPRoute
from pyroute2 import netns as namespaces

from labctl.sandbox.deadline import Deadline
from labctl.sandbox.netns import inside

P = ParamSpec("P")
_NEWNS, _NEWPID, _NEWNET, _PRIVATE = 0x00020000, 0x20000000, 0x40000000, 1 << 18 | 1 << 14
_libc = ctypes.CDLL(None, use_errno=True)


def _need(status: int) -> None:
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def isolated(test: Callable[P, None]) -> Callable[P, None]:
    """Run a test in network, mount and process namespaces of its own, as a child process.

    Its first process is PID 1 there, so that when it ends, every process it started ends too.
    """

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        if os.geteuid():
            pytest.skip("needs root")
        read_end, write_end = os.pipe()
        child = os.fork()
        if not child:
            _child(write_end, functools.partial(test, *args, **kwargs))
        os.close(write_end)
        with os.fdopen(read_end) as told:
            text = told.read()
        _, status = os.waitpid(child, 0)
        if status:
            pytest.fail(text or f"the test's process ended with {status}", pytrace=False)

    return wrapper


def _child(write_end: int, body: Callable[[], None]) -> None:
    try:
        _libc.prctl(1, signal.SIGKILL)
        _need(_libc.unshare(_NEWNS | _NEWPID | _NEWNET))
        inner = os.fork()
        if inner:
            os.close(write_end)
            _, status = os.waitpid(inner, 0)
            os._exit(1 if status else 0)
        _libc.prctl(1, signal.SIGKILL)
        _need(_libc.mount(None, b"/", None, _PRIVATE, None))
        _need(_libc.mount(b"tmpfs", b"/run", b"tmpfs", 0, None))
        _need(_libc.mount(b"proc", b"/proc", b"proc", 0, None))
        with IPRoute() as ipr:
            ipr.link("set", index=1, state="up")
        # Where br_netfilter is loaded, a bridge drops broken IP headers before a router sees them.
        for fix in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
            fix.write_text("0")
        body()
        os._exit(0)
    except BaseException:
        os.write(write_end, traceback.format_exc().encode())
        os._exit(1)


def namespace(name: str) -> None:
    """Create a named namespace without IPv6 duplicate address detection and its noise."""
    namespaces.create(name)
    inside(name, _quiet)


def _quiet() -> None:
    for where in ("all", "default"):
        base = Path("/proc/sys/net/ipv6/conf") / where
        (base / "accept_dad").write_text("0")
        (base / "router_solicitations").write_text("0")
        (Path("/proc/sys/net/ipv4/conf") / where / "rp_filter").write_text("0")
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
    with IPRoute() as ipr:
        ipr.link("set", index=1, state="up")


def bridge(name: str) -> None:
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    with IPRoute() as ipr:
        ipr.link("add", ifname=name, kind="bridge", br_forward_delay=0)
        ipr.link("set", index=ipr.link_lookup(ifname=name)[0], state="up")


def host(name: str, bridge_name: str, *addresses: str, gateways: tuple[str, ...] = ()) -> None:
    """A namespace with `eth0` (its other end `NAME-port` on the bridge), addresses, routes."""
    namespace(name)
    with IPRoute() as ipr:
        peer = {"ifname": "eth0", "net_ns_fd": name}
        ipr.link("add", ifname=f"{name}-port", kind="veth", peer=peer)
        (port,) = ipr.link_lookup(ifname=f"{name}-port")
        (master,) = ipr.link_lookup(ifname=bridge_name)
        ipr.link("set", index=port, master=master, state="up")
    inside(name, configure, "eth0", addresses, gateways)
    carries(f"{name}-port")
    inside(name, carries, "eth0")


def carries(iface: str) -> None:
    """Wait until what is sent by an interface goes out, and a bridge port forwards.

    The kernel turns a link on some time after its peer is up, on a busy machine much later (kernel:
    net/core/link_watch.c), and what is sent before that is gone without an error.
    """
    deadline = Deadline(60, f"{iface} to carry")
    with IPRoute() as ipr:
        (index,) = ipr.link_lookup(ifname=iface)
        while ipr.link("get", index=index)[0].get_attr("IFLA_OPERSTATE") != "UP":
            deadline.pause(0.01)


def configure(iface: str, addresses: tuple[str, ...], gateways: tuple[str, ...] = ()) -> None:
    with IPRoute() as ipr:
        (index,) = ipr.link_lookup(ifname=iface)
        ipr.link("set", index=index, state="up")
        for text in addresses:
            address, prefix = text.split("/")
            ipr.addr("add", index=index, address=address, prefixlen=int(prefix))
        for gateway in gateways:
            ipr.route("add", dst="default" if ":" not in gateway else "::/0", gateway=gateway)


def set_tx_checksum(iface: str, on: bool) -> None:
    """ETHTOOL_STXCSUM by the ioctl, as `ethtool -K IFACE tx on|off` of old."""
    value = ctypes.create_string_buffer(struct.pack("II", 0x17, int(on)))
    request = struct.pack("16sP16x", iface.encode(), ctypes.addressof(value))
    with socket.socket() as sock:
        fcntl.ioctl(sock, 0x8946, request)


@contextmanager
def tcp_server(name: str, address: str, port: int = 22):  # type: ignore[no-untyped-def]
    """Accept and answer `hello` in a namespace."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def listen() -> socket.socket:
        return socket.create_server((address, port), family=family)

    with inside(name, listen) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(b"hello")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def connects(name: str, address: str, port: int = 22, timeout: float = 1.5) -> bool:
    """Whether a TCP connection from a namespace is accepted and answered."""

    def attempt() -> bool:
        try:
            with socket.create_connection((address, port), timeout) as sock:
                return sock.recv(5) == b"hello"
        except TimeoutError:
            return False

    return inside(name, attempt)


def pings(name: str, address: str, timeout: float = 2.0) -> bool:
    """Whether an ICMP echo from a namespace is answered."""
    six = ":" in address

    def attempt() -> bool:
        family = socket.AF_INET6 if six else socket.AF_INET
        protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
        with socket.socket(family, socket.SOCK_DGRAM, protocol) as sock:
            sock.settimeout(timeout)
            sock.sendto(bytes([128 if six else 8, 0, 0, 0, 0, 1, 0, 1]) + b"x" * 20, (address, 0))
            try:
                return len(sock.recv(100)) == 28
            except TimeoutError:
                return False

    return inside(name, attempt)


def counters(name: str) -> str:
    """The text of the kernel's counters in a namespace."""

    def cat() -> str:
        base = Path("/proc/thread-self/net")  # /proc/net would be the whole process's namespace
        return "".join((base / file).read_text() for file in ("snmp", "netstat", "snmp6"))

    return inside(name, cat)


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
