"""An ordinary user has the same labs as root, on a host that nobody has to prepare for them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import LABCTL, Place, Watch, as_user, needs_users, place

from labctl import images

pytestmark = pytest.mark.integration

SCRIPT = """\
set -eux
id
{labctl} up router-hop.yaml >&2
{labctl} status --json
{labctl} ssh vm1 -- ssh vm2 uname -a >&2
test "$({labctl} exec vm2 -- printf %s 'two words')" = 'two words'
test "$({labctl} ssh vm1 -- ssh vm2 hostname)" = vm2
{labctl} exec r1 -- cat /proc/self/uid_map >&2
{labctl} exec vm2 -- sh -c 'exit 7' && exit 1 || test $? = 7
test "$({labctl} exec --all -- hostname | xargs)" = 'vm1: vm1 vm2: vm2'
test "$({labctl} exec -- cat /sys/class/net/vm1-eth0/operstate)" = up
there=$(mktemp -d)
echo copied >$there/file
{labctl} cp $there/file vm1:/tmp/ >&2
{labctl} cp vm1:/tmp/file $there/back >&2
cmp $there/file $there/back
{labctl} ssh-config >$there/lab.conf
test "$(ssh -F $there/lab.conf vm2 hostname)" = vm2
rm -r $there
{labctl} publish vm1:22 --json | {python} -c "
import json, socket, sys
address, port = json.load(sys.stdin)['published'][0]['listens'].split(':')
assert socket.create_connection((address, int(port)), 60).recv(4) == b'SSH-'"
{labctl} down >&2
test "$({labctl} status --json)" = '[]'
"""


@pytest.fixture
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        yield where


def _kvm(here: Place) -> list[str]:
    """Let the user be in the group of /dev/kvm where KVM is required."""
    return ["--kvm-group", "4242", "--in-session"] if here.accel == "require" else []


def _ranges() -> list[bytes | None]:
    files = [Path("/etc/subuid"), Path("/etc/subgid")]
    return [file.read_bytes() if file.exists() else None for file in files]


def test_an_ordinary_user_brings_up_uses_and_ends_a_lab(here: Place) -> None:
    needs_users()
    images.get("micro")  # as root, with root's cache
    before = _ranges()
    device = Path("/dev/net/tun").stat()
    with Watch(here) as watch:
        done = as_user(here, SCRIPT.format(labctl=LABCTL, python=sys.executable), *_kvm(here))
        assert done.status == 0, done.stderr
        watch.nothing_left()
    assert "uid=65534(nobody)" in done.stdout
    (lab,) = json.loads(done.stdout[done.stdout.index("[") :])
    assert lab["state"] == "up"
    assert {part["state"] for part in lab["parts"] if part["is"] == "node"} == {"running"}
    assert "200000" in done.stderr  # the ranges were used: PID 1's view of /etc/subuid
    assert _ranges() == before
    assert Path("/dev/net/tun").stat().st_mode == device.st_mode
    assert not list((here.root / "home").iterdir())


@pytest.mark.parametrize(
    "options",
    [
        ["--no-ranges", "--without", "newuidmap"],
        ["--kvm-group", "4242", "--newgrp"],
    ],
)
def test_a_lab_needs_no_ids_but_the_users_own(here: Place, options: list[str]) -> None:
    needs_users()
    images.get("micro")
    with Watch(here) as watch:
        done = as_user(
            here, SCRIPT.format(labctl=LABCTL, python=sys.executable), *_kvm(here), *options
        )
        assert done.status == 0, done.stderr
        watch.nothing_left()
    assert "200000" not in done.stderr
    assert "gid=4242" in done.stdout or "--newgrp" not in options
