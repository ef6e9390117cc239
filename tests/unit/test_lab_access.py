"""What programs outside of a lab are told to log in."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from labctl.guests import dial
from labctl.lab.access import Login, ssh_config

LOGIN = Login(
    "vm1", "vm1.pair", "root", "/run/x/key", "/run/x/known_hosts",
    ("/opt/a b/python", "-m", "labctl", "ssh-proxy", "100%", "vm1"), passes_descriptor=True,
)  # fmt: skip


def test_ssh_reads_the_configuration_as_it_is_meant(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(ssh_config([LOGIN]))
    for name in ("vm1", "vm1.pair"):
        told = subprocess.run(
            ["ssh", "-G", "-F", str(file), name], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        assert "hostname vm1.pair" in told
        assert "user root" in told
        assert "identityfile /run/x/key" in told
        assert "userknownhostsfile /run/x/known_hosts" in told
        assert "stricthostkeychecking true" in told
        assert "proxyusefdpass yes" in told
        # ssh gives it to a shell: what is one word stays one.
        assert "proxycommand '/opt/a b/python' -m labctl ssh-proxy 100%% vm1" in told


def test_a_connection_is_handed_out_and_nothing_stays_between() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours, theirs = socket.socketpair()
        words = [sys.executable, "-I", "-S", dial.__file__, "127.0.0.1"]
        child = subprocess.Popen([*words, str(server.getsockname()[1])], stdout=theirs.fileno())
        theirs.close()
        there, _ = server.accept()
        _, (number,), _, _ = socket.recv_fds(ours, 1, 1)
        assert child.wait() == 0
        with there, ours, socket.socket(fileno=number) as here:
            there.sendall(b"SSH-2.0")
            assert here.recv(7) == b"SSH-2.0"


def test_a_guest_that_does_not_answer_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-I", "-S", dial.__file__, "127.0.0.1", str(port)],
        capture_output=True, check=False, env={"PATH": os.defpath},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(b"labctl: 127.0.0.1 port ")
    assert len(done.stderr.splitlines()) == 1
